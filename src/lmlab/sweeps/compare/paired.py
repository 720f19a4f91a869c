"""Paired measurements: Student's t-test of their difference, Holm's correction, pairs needed.

Runs with one seed begin alike and see the same windows, so part of the noise is the same in both
and drops out of their difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import

LEVEL = 0.05  # a difference is told from noise if p is below it; intervals cover 1 - LEVEL
POWER = 0.8
MOST_PAIRS = 10_000
ROUNDING = 1e-12  # differences that are smaller, relative to the values, are rounding


@dataclass(frozen=True)
class Paired:
    """The difference of two paired samples; NaN for what n pairs are too few for."""

    n: int  # pairs
    mean: float = math.nan  # of the differences
    deviation: float = math.nan  # of the differences, n - 1
    low: float = math.nan  # the interval that covers the true mean with 95 %
    high: float = math.nan
    p: float = math.nan  # two-sided
    r: float = math.nan  # correlation of the two samples (Pearson)


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """The mean of `first - second`, pair by pair, and Student's paired t-test of it.

    Where all differences are equal the test has no noise to compare with: p is then 1 if they are
    zero and 0 if they are not.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    n = len(a)
    if n == 0:
        return Paired(0)
    rounding = ROUNDING * max(np.abs(a).max(), np.abs(b).max())
    with np.errstate(all="ignore"):  # what overflows is not finite, and that is looked at
        mean = float((a - b).mean())
        deviation = float((a - b).std(ddof=1)) if n > 1 else math.nan
    if not math.isfinite(deviation):
        return Paired(n, mean)
    if deviation <= rounding:
        return Paired(n, mean, 0.0, mean, mean, float(abs(mean) <= rounding), _correlation(a, b))
    error = deviation / math.sqrt(n)
    half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * error
    p = float(2 * stdtr(n - 1, -abs(mean / error)))
    return Paired(n, mean, deviation, mean - half, mean + half, p, _correlation(a, b))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """NaN for two pairs, through which there always is a line, and where a sample does not vary."""
    varies = all(np.ptp(values) > ROUNDING * np.abs(values).max() for values in (a, b))
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 and varies else math.nan


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected by Holm's method for how many there are, so that all hold together."""
    values, n = np.asarray(p, dtype=float), len(p)
    order = np.argsort(values, kind="stable")
    corrected = np.empty(n)
    corrected[order] = np.maximum.accumulate((n - np.arange(n)) * values[order])
    return np.minimum(corrected, 1).tolist()


def pairs_needed(deviation: float, size: float, level: float = LEVEL) -> int | None:
    """How many pairs tell a difference of a size from none, with 80 % power.

    The smallest n with n >= ((t(1 - level / 2) + t(power)) * deviation / size)^2, where t is the
    quantile of Student's distribution with n - 1 degrees of freedom (NIST/SEMATECH e-Handbook of
    Statistical Methods, 7.2.2.2; statsmodels' solver finds no root where few pairs are enough).
    `deviation` is that of the differences, and no better known than few pairs can tell. None: more
    than MOST_PAIRS.
    """
    if deviation == 0 and size != 0:
        return 2
    if math.isnan(deviation) or size == 0:
        return None
    ratio = deviation / abs(size)
    if ratio > MOST_PAIRS:
        return None
    normal = NormalDist().inv_cdf
    least = max(2, math.ceil(((normal(1 - level / 2) + normal(POWER)) * ratio) ** 2))
    for n in range(least, MOST_PAIRS + 1):  # a few more: t exceeds the normal quantile
        if n >= ((stdtrit(n - 1, 1 - level / 2) + stdtrit(n - 1, POWER)) * ratio) ** 2:
            return n
    return None
