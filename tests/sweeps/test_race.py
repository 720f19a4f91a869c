"""Races decided by numbers, without training."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.sweeps.compare.paired import LEVEL
from lmlab.sweeps.compare.race import level_at, race

LOSSES = st.one_of(st.just(math.inf), st.floats(1, 3))


@given(n_seeds=st.integers(1, 30), data=st.data())
def test_the_level_is_spent_and_no_more(n_seeds, data):
    first = data.draw(st.integers(1, n_seeds))
    spent = sum(level_at(n, first, n_seeds) for n in range(first, n_seeds + 1))
    assert spent == pytest.approx(LEVEL)


@given(
    table=st.lists(st.lists(LOSSES, min_size=6, max_size=6), min_size=1, max_size=6),
    least=st.one_of(st.none(), st.floats(0.01, 1)),
)
def test_seed_by_seed_it_is_the_race_of_all_that_is_known(table, least):
    """What is given when it is wanted leads to the same end, and stops what it stopped."""
    has = [0] * len(table)
    while True:
        now = race([row[:n] for row, n in zip(table, has, strict=True)], 6, 2, least)
        if not now.wanted:
            break
        assert all(has[i] < now.wanted for i in now.racing) or now.wanted == 2
        for i in now.racing:
            has[i] = now.wanted
    assert now == race(table, 6, 2, least)
    assert {*now.racing, *now.stopped} == set(range(len(table)))
    for i, one in now.stopped.items():
        assert has[i] == one.n
    assert len(now.racing) <= 1 or now.n == 6


def test_what_is_worse_stops_first_and_the_rest_goes_on():
    noise = np.random.default_rng(1).normal(0, 0.01, (3, 8))
    common = np.random.default_rng(2).normal(0, 0.5, 8)  # which pairing takes out
    table = (np.array([[2.0], [2.004], [2.5]]) + noise + common).tolist()
    assert race([row[:2] for row in table], 8, 3).wanted == 3
    at_three = race([row[:3] for row in table], 8, 3)
    assert (at_three.wanted, set(at_three.stopped)) == (4, {2})
    stopped = at_three.stopped[2]
    assert (stopped.why, stopped.n) == ("worse", 3)
    assert stopped.low < 0.5 < stopped.high
    end = race([*table[:2], table[2][:3]], 8, 3)
    assert (end.wanted, end.n, set(end.racing), end.winner) == (0, 8, {0, 1}, None)


def test_a_difference_that_does_not_matter_is_looked_for_no_longer():
    noise = np.random.default_rng(1).normal(0, 0.001, (2, 10))
    end = race((2 + noise).tolist(), 10, 3, least=0.1)
    assert end.n < 10
    (stopped,) = end.stopped.values()
    assert stopped.why == "as good"
    assert end.winner is None


def test_the_only_one_left_wins():
    end = race([[2.0, 2.1, 2.0], [3.0, 3.11, 3.0], [math.nan, 2.0, 2.0]], 3, 3)
    assert end.winner == 0
    assert {i: one.why for i, one in end.stopped.items()} == {1: "worse", 2: "no number"}


def test_equal_settings_have_no_winner():
    """Of 400 races of six equal settings, and 400 of two."""
    chance = np.random.default_rng(0)
    for n_settings in (2, 6):
        winners = 0
        for _ in range(400):
            table = chance.normal(size=(n_settings, 10)) + chance.normal(size=10)
            winners += race(table.tolist(), 10, 3).winner is not None
        assert winners <= 400 * LEVEL
