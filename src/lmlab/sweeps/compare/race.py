"""Racing: settings get one seed after the other, and what is worse than the best stops.

After each seed every setting is compared with the best so far by a paired t-test, whose variance
learns from those of the others (`moderated`), with Holm's correction for how many are compared.
Looking again and again would find a difference by chance,
so the level is spent: of 0.05 the look after n of N seeds may have spent 0.05 n / N in all, and has
the rest of that for itself (Lan and DeMets, Discrete Sequential Boundaries for Clinical Trials,
1983; the power family of Kim and DeMets, 1987, with an exponent of 1). What the looks have in
common is not made use of, by Bonferroni's inequality, so it holds for t-tests of three seeds, too.

That the best is stopped, or that a winner is named where there is none, is bounded by the level. It
is not promised that no setting is stopped that equals the best: among many equals the one that
leads is flattered by its luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from lmlab.sweeps.compare.moderated import moderated
from lmlab.sweeps.compare.paired import LEVEL, holm, paired

Why = Literal["worse", "as good", "no number"]


@dataclass(frozen=True)
class Stopped:
    """Why a setting got no further seed."""

    why: Why
    n: int  # seeds until then
    against: int  # the setting that was the best then
    difference: float = math.nan  # of its losses minus the best's, mean over the seeds
    low: float = math.nan  # its interval: 95 % at all looks, for all compared with this best
    high: float = math.nan
    p: float = math.nan  # by Holm's correction


@dataclass(frozen=True)
class Standings:
    """How a race stands."""

    n: int  # seeds that all that race have had when last looked at; 0: not looked at yet
    racing: list[int]  # settings, the best first
    stopped: dict[int, Stopped] = field(default_factory=dict)
    wanted: int = 0  # seeds that each that races is to have next; 0: it is over

    @property
    def winner(self) -> int | None:
        """The setting that all others are worse than; None: there is none, or not yet."""
        lost = all(one.why != "as good" for one in self.stopped.values())
        return self.racing[0] if not self.wanted and lost and len(self.racing) == 1 else None


def level_at(n: int, first: int, n_seeds: int) -> float:
    """What the look after `n` of `n_seeds` seeds may spend, where the first is after `first`."""
    before = 0 if n == first else n - 1
    return LEVEL * (n - before) / n_seeds


def race(
    losses: Sequence[Sequence[float]], n_seeds: int, first: int, least: float | None = None
) -> Standings:
    """How a race stands by the losses of each setting, a seed each, in the order of the seeds.

    It is gone through from its first look, so it depends on nothing but these: what was decided
    once is decided again. A setting stops that is worse than the best, whose loss is no finite
    number, or whose difference from the best is within `least` (nats) of none.
    """
    racing, stopped, n = list(range(len(losses))), dict[int, Stopped](), 0
    first = min(first, n_seeds)
    for look in range(first, n_seeds + 1):
        if any(len(losses[i]) < look for i in racing):
            return Standings(n, racing, stopped, look)
        n = look
        now = {i: np.asarray(losses[i][:n], dtype=float) for i in racing}
        finite = [i for i in racing if np.isfinite(now[i]).all()]
        finite.sort(key=lambda i: float(now[i].mean()))
        best = finite[0] if finite else racing[0]
        for i in set(racing) - set(finite):
            stopped[i] = Stopped("no number", n, best)
        stopped |= _compared(now, finite, level_at(n, first, n_seeds), least)
        racing = [i for i in finite if i not in stopped]
        if len(racing) < 2:
            break
    return Standings(n, racing, stopped)


def _compared(
    now: dict[int, np.ndarray], order: Sequence[int], level: float, least: float | None
) -> dict[int, Stopped]:
    """Those that stop at a look, of settings in the order of their means."""
    stopped = dict[int, Stopped]()
    if len(order) < 2:
        return stopped
    best, others = order[0], order[1:]
    tests = [paired(now[i].tolist(), now[best].tolist()) for i in others]
    own = [test.deviation * test.deviation for test in tests]
    varying = [k for k, variance in enumerate(own) if 0 < variance < math.inf]
    variances, degrees = moderated([own[k] for k in varying], len(now[best]) - 1)
    errors = [0.0] * len(tests)  # of the mean differences
    values = [test.p for test in tests]  # where all differences are equal there is no noise
    for k, variance in zip(varying, variances, strict=True):
        errors[k] = math.sqrt(variance / tests[k].n)
        values[k] = float(2 * stdtr(degrees, -abs(tests[k].mean) / errors[k]))
    quantile = float(stdtrit(degrees, 1 - level / len(others) / 2))
    for i, test, error, p in zip(others, tests, errors, holm(values), strict=True):
        low, high = test.mean - quantile * error, test.mean + quantile * error
        is_worse = p <= level
        if is_worse or (least is not None and -least < low and high < least):
            why: Why = "worse" if is_worse else "as good"
            stopped[i] = Stopped(why, test.n, best, test.mean, low, high, p)
    return stopped
