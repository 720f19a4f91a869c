"""Schedules: (step, max_steps) -> what the rate is multiplied by."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

from lmlab.bounds import Count, CountOrZero, Fraction


def constant(step: int, max_steps: int, warmup_steps: CountOrZero = 0) -> float:
    """Full rate from the first step, or after a straight warm-up."""
    return _warmup(step, warmup_steps)


def cosine(
    step: int, max_steps: int, warmup_steps: CountOrZero = 0, final: Fraction = 0.0
) -> float:
    """Warm-up, then half a cosine that ends at `final` (Loshchilov & Hutter 2017).

    As in nanoGPT, `final` would be the rate of the step after the last: no step is taken at 0.
    """
    if step < warmup_steps:
        return _warmup(step, warmup_steps)
    done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def linear(
    step: int,
    max_steps: int,
    warmup_steps: CountOrZero = 0,
    warmdown: Fraction = 0.5,
    final: Fraction = 0.0,
) -> float:
    """Warm-up, a plateau, and a straight line to `final` over the last `warmdown` of all steps.

    `final` would be the rate of the step after the last: no step is taken at 0. With `warmdown` 0
    the plateau lasts to the end.
    """
    steps_down = warmdown * max_steps
    left = min(max((max_steps - step) / steps_down, 0.0), 1.0) if steps_down else 1.0
    return min(_warmup(step, warmup_steps), final + (1 - final) * left)


def cycles(
    step: int,
    max_steps: int,
    warmup_steps: CountOrZero = 0,
    warmdown: Fraction = 1.0,
    final: Fraction = 0.0,
    n_cycles: Count = 4,
    first: Fraction | None = None,
    top: Fraction = 1.0,
) -> float:
    """`linear` again and again, with warm restarts (Loshchilov & Hutter 2017, arXiv 1608.03983):
    the first cycle has `first` of all steps (None: as many as each other), and `n_cycles - 1` of
    equal length begin at `top`. At the end of each the weights are good ones.
    """
    share = 1 / n_cycles if first is None else first
    shares = [0.0, *(share + (1 - share) * i / (n_cycles - 1) for i in range(n_cycles - 1))]
    begins = [round(max_steps * each) for each in shares]
    i = bisect_right(begins, min(step, max_steps - 1)) - 1
    end = begins[i + 1] if i + 1 < n_cycles else max_steps
    height = 1.0 if i == 0 else top
    within = linear(step - begins[i], end - begins[i], 0, warmdown, final)
    return min(_warmup(step, warmup_steps), height * within)


def ends_of_cycles(schedule: Callable[[int, int], float], max_steps: int) -> list[int]:
    """After how many steps a rate that has fallen rises again, and the last of all: of a schedule
    without cycles the last alone."""
    ends, falls = [], False
    before = schedule(0, max_steps)
    for step in range(1, max_steps):
        now = schedule(step, max_steps)
        if falls and now > before:
            ends.append(step)
        falls, before = now < before or (falls and now == before), now
    return [*ends, max_steps]


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))
