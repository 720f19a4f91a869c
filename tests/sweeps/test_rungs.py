"""Successive halving, decided without training: any order of arrival, any kill."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.sweeps.search.rungs import Move, Standing, next_move, rungs

losses = st.one_of(st.sampled_from([1.0, 2.0, math.inf]), st.floats(0, 10))


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[list[list[float]], int]:
    """The loss of each setting at each rung, if it comes there; and the factor."""
    n_rungs = draw(st.integers(1, 4))
    table = draw(st.lists(st.lists(losses, min_size=n_rungs, max_size=n_rungs), max_size=20))
    return table, draw(st.integers(2, 4))


class Lab:
    """Trains settings: each place takes the next move, and what is under way ends in any order."""

    def __init__(self, table: list[list[float]], factor: int, synchronous: bool):
        self.table, self.factor, self.synchronous = table, factor, synchronous
        self.settings = [Standing() for _ in table]
        self.n_rungs = len(table[0]) if table else 1
        self.moves: list[Move] = []

    def next(self) -> Move | None:
        return next_move(self.settings, self.n_rungs, self.factor, self.synchronous)

    def begin(self, move: Move) -> None:
        before = self.settings[move.setting]
        # Each rung once, from the one below: nothing is trained twice, nothing left out.
        assert before.goal == (None if move.goal == 0 else move.goal - 1)
        assert len(before.losses) == move.goal
        if move.goal:
            self.check_is_among_the_best(move.setting, move.goal - 1)
        self.settings[move.setting] = Standing(before.losses, move.goal)
        self.moves.append(move)

    def check_is_among_the_best(self, setting: int, rung: int) -> None:
        there = [one.losses[rung] for one in self.settings if len(one.losses) > rung]
        own = self.settings[setting].losses[rung]
        better = sum(loss < own for loss in there)
        assert math.isfinite(own)
        assert better < max(1, len(there) // self.factor)

    def end(self, setting: int) -> None:
        goal = self.settings[setting].goal
        assert goal is not None
        came = (*self.settings[setting].losses, self.table[setting][goal])
        self.settings[setting] = Standing(came, goal)

    def run(self, places: int, seed: int) -> None:
        chance = random.Random(seed)
        under_way: list[int] = []
        while True:
            while len(under_way) < places and (move := self.next()) is not None:
                assert move == self.next()  # nothing but what stands decides
                self.begin(move)
                under_way.append(move.setting)
            if not under_way:
                return
            self.end(under_way.pop(chance.randrange(len(under_way))))


@given(sweep=sweeps(), places=st.integers(1, 8), seed=st.integers(0, 99))
def test_synchronous_decisions_are_the_same_for_any_order_of_arrival(sweep, places, seed):
    one_by_one, at_once = Lab(*sweep, True), Lab(*sweep, True)
    one_by_one.run(1, 0)
    at_once.run(places, seed)
    assert set(one_by_one.moves) == set(at_once.moves)
    assert one_by_one.settings == at_once.settings
    table, factor = sweep
    n = len(table)
    for rung in range(1, one_by_one.n_rungs):
        lived = sum(
            math.isfinite(one.losses[rung - 1]) for one in at_once.settings if _at(one, rung - 1)
        )
        n = min(lived, max(1, n // factor)) if n else 0
        assert sum(_at(one, rung) for one in at_once.settings) == n


def _at(one: Standing, rung: int) -> bool:
    return len(one.losses) > rung


@given(sweep=sweeps(), places=st.integers(1, 8), seed=st.integers(0, 99))
def test_asynchronously_nothing_waits_and_somebody_wins(sweep, places, seed):
    lab = Lab(*sweep, False)
    lab.run(places, seed)
    assert all(one.losses for one in lab.settings)  # each has come to the first rung
    for rung in range(lab.n_rungs - 1):
        there = [i for i, one in enumerate(lab.settings) if _at(one, rung)]
        there.sort(key=lambda i: lab.settings[i].losses[rung])
        best = there[: max(1, len(there) // lab.factor)]
        for i in best:  # at the end the best 1/factor have gone on, and perhaps some that were
            assert _at(lab.settings[i], rung + 1) or math.isinf(lab.settings[i].losses[rung])


@given(sweep=sweeps(), places=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_place_is_idle_only_where_nothing_is_left_for_it(sweep, places, seed):
    lab = Lab(*sweep, False)
    lab.run(places, seed)
    assert lab.next() is None
    assert {move.setting for move in lab.moves} == set(range(len(lab.table)))


def test_a_free_place_promotes_what_it_can_and_else_begins_something_new():
    there = [Standing((3.0,), 0), Standing((1.0,), 0), Standing((2.0,), 0)]
    new = [Standing(), Standing()]
    assert next_move([*there, *new], 3, 3) == Move(1, 1)
    assert next_move([*there, *new], 3, 3, synchronous=True) == Move(3, 0)
    assert next_move([*there[:2], *new], 3, 3) == Move(2, 0)
    higher = [Standing((0.1, 5.0), 1), Standing((0.2, 4.0), 1), Standing((0.3, 6.0), 1)]
    assert next_move([*there, *higher], 3, 3) == Move(4, 2)  # the highest first


def test_a_rung_that_nothing_more_can_come_to_has_a_winner():
    assert next_move([Standing((2.0,), 0), Standing((1.0,), 0)], 2, 4) == Move(1, 1)
    under_way = [Standing((2.0,), 0), Standing((), 0)]
    assert next_move(under_way, 2, 4) is None
    assert next_move([Standing((math.inf,), 0)], 2, 4) is None  # it failed


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ((100, 3, 900), [100, 300, 900]),
        ((100, 3, 1000), [100, 300, 900, 1000]),
        ((100, 4, 100), [100]),
        ((250, 2, 2000), [250, 500, 1000, 2000]),
    ],
)
def test_rungs_end_with_the_run(asked, steps):
    assert rungs(*asked) == steps
