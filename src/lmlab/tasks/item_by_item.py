"""Two models asked the same items: which is better, judged item by item.

Most of what makes an item hard or easy is the same for both, and leaves the difference. So a
difference can be certain where the intervals of the two scores overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr

from lmlab.tasks.likelihood import Answers
from lmlab.tasks.scores import ACCURACIES, Measured, measured

N_RESAMPLES = 5000
AT_A_TIME = 1 << 22  # draws


@dataclass(frozen=True)
class Difference:
    """A score of one model minus that of another, with its 95 % interval.

    The interval is a bootstrap's: items are drawn anew with replacement, both answers to one
    together (Efron and Tibshirani 1993). Of an accuracy there is also the p-value of McNemar's
    exact test (McNemar 1947), and how many items either was alone, or more, right about.
    """

    value: float
    low: float
    high: float
    n_items: int
    better: int | None = None
    worse: int | None = None
    p: float | None = None


def compare(these: Answers, others: Answers) -> dict[str, Difference]:
    """By score, of the items that both were asked."""
    both = these.is_asked & others.is_asked
    n_items = int(both.sum())
    if n_items < 2:
        return {}
    mine, theirs = measured(these.select(both)), measured(others.select(both))
    differences = {}
    for name, (low, high) in _bootstrap(mine, theirs, n_items).items():
        difference = mine[name].value - theirs[name].value, low, high, n_items
        if name in ACCURACIES:
            ahead = mine[name].shares - theirs[name].shares
            better, worse = int((ahead > 0).sum()), int((ahead < 0).sum())
            differences[name] = Difference(*difference, better, worse, mcnemar(better, worse))
        else:
            differences[name] = Difference(*difference)
    return differences


def mcnemar(better: int, worse: int) -> float:
    """How likely a difference as large as this, or larger, is if both are equally good: each item
    that only one is right about is then as good as the toss of a coin."""
    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))


def _bootstrap(
    mine: dict[str, Measured], theirs: dict[str, Measured], n_items: int
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each difference: percentiles over N_RESAMPLES."""
    draw = np.random.default_rng(0)
    columns = [
        column
        for name in mine
        for score in (mine[name], theirs[name])
        for column in (score.shares, score.sizes)
    ]
    values = np.stack(columns, axis=1)  # (n_items, 4 for each score)
    sums, n = [], max(1, AT_A_TIME // n_items)
    for begin in range(0, N_RESAMPLES, n):
        drawn = draw.integers(n_items, size=(min(n, N_RESAMPLES - begin), n_items))
        rows = np.arange(len(drawn))[:, None] * n_items
        times = np.bincount((drawn + rows).ravel(), minlength=drawn.size).reshape(drawn.shape)
        sums.append(times @ values)  # how often each item was drawn, times what it adds
    ratios = np.concatenate(sums).reshape(N_RESAMPLES, len(mine), 2, 2)
    scores = ratios[..., 0] / ratios[..., 1]
    low, high = np.percentile(scores[..., 0] - scores[..., 1], [2.5, 97.5], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(mine)}
