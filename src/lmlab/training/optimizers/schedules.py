"""Schedules: (step, max_steps) -> what the rate is multiplied by."""

from __future__ import annotations

import math

from lmlab.bounds import CountOrZero, Fraction


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


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))
