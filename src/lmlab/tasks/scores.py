"""What a model's answers come to: scores, each with its 95 % interval over items."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a second to import

from lmlab.tasks.likelihood import Answers

Z = 1.959963984540054  # of the normal distribution: 95 % lie within
TIED = 1e-4  # nats: sums of float32 numbers that should be equal differ by less
ACCURACIES = ("accuracy", "accuracy_per_character")


@dataclass(frozen=True)
class Score:
    """A figure and its 95 % interval; NaN where there are too few items for one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """What each item adds to a score: the score is the sum of `shares` over that of `sizes`."""

    shares: np.ndarray  # (n_items,)
    sizes: np.ndarray  # (n_items,)

    @property
    def value(self) -> float:
        return float(self.shares.sum() / self.sizes.sum()) if len(self.shares) else math.nan


def measured(answers: Answers) -> dict[str, Measured]:
    """The scores of answers to items that were all asked, by name.

    `accuracy` is the share of items whose right choice has the highest log-probability;
    `accuracy_per_character`, the highest of those divided by the choice's length. Choices that are
    tied for the first of k places are right 1/k times. Where an item has one choice alone, it is
    right if each of its tokens is the likeliest. `margin` is by how many nats the right choice is
    ahead of the best wrong one. `bits_per_byte` is what the right choices take, all together, over
    their bytes in UTF-8.

    Where no item has two choices, only `accuracy` and `bits_per_byte` are there.
    """
    rows, ones = np.arange(len(answers.right)), np.ones(len(answers.right))
    right = answers.log_probs[rows, answers.right]
    bits = Measured(-right / math.log(2), answers.n_bytes[rows, answers.right])
    if answers.log_probs.shape[1] == 1:
        greedy = answers.is_greedy[:, 0].astype(float)
        return {"accuracy": Measured(greedy, ones), "bits_per_byte": bits}
    wrong = answers.log_probs.copy()
    wrong[rows, answers.right] = np.nan
    return {
        "accuracy": Measured(_credits(answers.log_probs, answers.right), ones),
        "accuracy_per_character": Measured(
            _credits(answers.log_probs / answers.characters, answers.right), ones
        ),
        "margin": Measured(right - np.nanmax(wrong, axis=1), ones),
        "bits_per_byte": bits,
    }


def scores(answers: Answers) -> dict[str, Score]:
    """The scores of the items that were asked, with their intervals.

    Those of accuracies are Wilson's (Wilson 1927, JASA 22(158)); of a margin, Student's; and of
    bits per byte, Student's of the ratio linearised (Cochran 1977, Sampling Techniques, 2.11).
    """
    of_items = measured(answers.select(answers.is_asked))
    return {
        name: wilson(score) if name in ACCURACIES else student(score)
        for name, score in of_items.items()
    }


def wilson(score: Measured) -> Score:
    """The interval of a share of n items."""
    share, n = score.value, len(score.shares)
    if not n:
        return Score(math.nan, math.nan, math.nan)
    middle, scale = share + Z * Z / (2 * n), 1 + Z * Z / n
    width = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Score(share, (middle - width) / scale, (middle + width) / scale)


def student(score: Measured) -> Score:
    """The interval of a mean, or of a ratio of two, over n items."""
    value, n = score.value, len(score.shares)
    if n < 2:
        return Score(value, math.nan, math.nan)
    rests = score.shares - value * score.sizes
    error = math.sqrt(float(rests @ rests) / (n * (n - 1))) / float(score.sizes.mean())
    width = float(stdtrit(n - 1, 0.975)) * error
    return Score(value, value - width, value + width)


def _credits(values: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of each item, how right it is to take the highest of `values` (n_items, n_choices)."""
    is_best = values >= np.nanmax(values, axis=1, keepdims=True) - TIED
    return is_best[np.arange(len(right)), right] / is_best.sum(axis=1)
