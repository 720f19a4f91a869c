"""Variances that few runs tell, each drawn towards those of the others: the moderated t-test.

Three seeds know little of a spread, and Student's t pays for it: with two degrees of freedom only
enormous differences count. But many settings are compared at once, and how alike their variances
are says how much each may learn from the rest (Smyth, Linear Models and Empirical Bayes Methods for
Assessing Differential Expression, 2004): of a variance s² with d degrees of freedom is made
(d0 s0² + d s²) / (d0 + d), with d0 + d degrees. Where variances are as alike as chance makes them,
d0 is infinite; where they are not, it is small, and each test is nearly Student's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, polygamma


class Moderated(NamedTuple):
    """Variances, and the degrees of freedom that each has now."""

    variances: list[float]
    degrees: float


def moderated(variances: Sequence[float], degrees: int) -> Moderated:
    """What positive variances of `degrees` of freedom each come to, taken together.

    They are of differences from one setting, whose noise is in all of them: two of m equally noisy
    ones are correlated by a half, their variances by a quarter. So m of them have no more degrees
    than `degrees` / (1/m + (1 - 1/m) / 4), fewer than four times those of one.
    """
    m, own = len(variances), np.asarray(variances, dtype=float)
    if m < 2:
        return Moderated(own.tolist(), degrees)
    most = degrees / (1 / m + (1 - 1 / m) / 4)
    logs = np.log(own) - digamma(degrees / 2) + math.log(degrees / 2)
    beyond_chance = float(logs.var(ddof=1) - polygamma(1, degrees / 2))
    if beyond_chance <= 0:
        return Moderated([float(own.mean())] * m, most)
    prior = 2 * _trigamma_inverse(beyond_chance)
    common = math.exp(float(logs.mean()) + float(digamma(prior / 2)) - math.log(prior / 2))
    drawn = (prior * common + degrees * own) / (prior + degrees)
    return Moderated(drawn.tolist(), min(prior + degrees, most))


def _trigamma_inverse(y: float) -> float:
    """The x > 0 whose trigamma is y > 0, by Newton's method on its reciprocal (Smyth 2004)."""
    if y > 1e7:
        return 1 / math.sqrt(y)
    if y < 1e-6:
        return 1 / y
    x = 0.5 + 1 / y
    while True:
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / y) / float(polygamma(2, x))
        x += step
        if -step < 1e-8 * x:
            return x
