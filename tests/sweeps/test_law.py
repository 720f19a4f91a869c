"""A scaling law: constants that data were made from are found again, and its optimum is one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.sweeps.compare.law import LEAST, MOST, OPERATIONS, Law, fit

EXPONENTS = st.floats(0.15, 0.9)
WIDTHS = {2e11: (16, 32, 48, 64), 2e12: (32, 48, 64, 96, 128), 2e13: (64, 96, 128, 192)}


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Sizes and numbers of tokens of three budgets."""
    pairs = [(48.0 * w**2, budget) for budget, widths in WIDTHS.items() for w in widths]
    n, compute = np.array(pairs).T
    return n, compute / (OPERATIONS * n)


@st.composite
def laws(draw) -> Law:
    """Where all three terms matter on the grid: each is from 0.1 to 2 in its middle."""
    n, d = (np.exp(np.log(x).mean()) for x in grid())
    alpha, beta = draw(EXPONENTS), draw(EXPONENTS)
    of_n, of_d = draw(st.floats(0.1, 1)), draw(st.floats(0.1, 1))
    return Law(draw(st.floats(0.3, 2)), of_n * n**alpha, of_d * d**beta, alpha, beta)


@settings(max_examples=25)
@given(laws())
def test_without_noise_the_law_is_found_again(law):
    n, d = grid()
    found = fit(n, d, law.loss(n, d))
    assert found.loss(n, d) == pytest.approx(law.loss(n, d), rel=1e-5)
    assert (found.alpha, found.beta) == pytest.approx((law.alpha, law.beta), rel=0.02, abs=5e-3)
    assert found.is_told_by(n, d)


@settings(max_examples=50)
@given(laws(), st.floats(1e10, 1e16))
def test_no_size_spends_a_budget_better_than_the_best(law, compute):
    n, d = law.best_parameters(compute), law.best_tokens(compute)
    assert OPERATIONS * n * d == pytest.approx(compute)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert law.loss(n * factor, d / factor) > law.best_loss(compute)


def test_a_run_far_off_pulls_no_harder_than_one_a_little_off():
    law, (n, d) = Law(1.3, 30, 60, 0.4, 0.38), grid()
    rng = np.random.default_rng(0)
    losses = law.loss(n, d) * np.exp(0.001 * rng.standard_normal(len(n)))
    losses[5] *= 1.3
    found = fit(n, d, losses)
    others = np.arange(len(n)) != 5
    assert found.loss(n, d)[others] == pytest.approx(law.loss(n, d)[others], rel=0.01)


def test_what_does_not_depend_on_size_has_no_optimum():
    n, d = grid()
    found = fit(n, d, 1 + 100 * d**-0.5)
    assert not found.is_told_by(n, d)
    assert found.loss(n, d) == pytest.approx(1 + 100 * d**-0.5, rel=1e-3)
    nothing = Law(1.0, 0.0, 1.0, 0.3, 0.3)
    assert np.isnan(nothing.best_parameters(1e12))
    assert np.isnan(nothing.best_loss(1e12))


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_whatever_it_is_given_it_stays_within_its_bounds(seed):
    n, d = grid()
    found = fit(n, d, np.random.default_rng(seed).uniform(0.1, 5, len(n)))
    assert min(found.E, found.A, found.B) >= 0
    assert all(LEAST <= x <= MOST for x in (found.alpha, found.beta))
