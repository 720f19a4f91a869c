"""Successive halving: which setting begins or goes on next, by what stands so far alone.

All settings are trained to a first rung, a step; there the best 1/factor go on to the next, factor
times as far, and so to the end (Jamieson and Talwalkar, Non-stochastic Best Arm Identification and
Hyperparameter Optimization, 2016). Asynchronously a setting goes on as soon as it is among the best
1/factor of those that have come to its rung so far, and nothing waits for the slowest (Li et al., A
System for Massively Parallel Hyperparameter Tuning, 2020, algorithm 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """How far a setting has come."""

    losses: tuple[float, ...] = ()  # at each rung that it has come to; infinite where it failed
    goal: int | None = None  # the rung that it is to come to; None: it has not begun


@dataclass(frozen=True)
class Move:
    """A setting begins, or goes on."""

    setting: int
    goal: int  # the rung that it is to come to now


def rungs(min_steps: int, factor: int, max_steps: int) -> list[int]:
    """The steps of the rungs; the last is the end."""
    steps = []
    while min_steps < max_steps:
        steps.append(min_steps)
        min_steps *= factor
    return [*steps, max_steps]


def next_move(
    settings: Sequence[Standing], n_rungs: int, factor: int, synchronous: bool = False
) -> Move | None:
    """What to do next; None: nothing before another setting has come to its rung, or at all.

    Where no more settings can come to a rung, its best goes on even if they are fewer than factor,
    so that there is a winner. Equal losses go by the order of the settings.
    """
    promotions = []
    is_closed = all(one.goal is not None and one.losses for one in settings)  # the first rung
    for rung in range(n_rungs - 1):
        best = _best(settings, rung, factor, is_closed)
        if is_closed or not synchronous:
            promotions += [Move(i, rung + 1) for i in best if settings[i].goal == rung]
        have_gone = all(settings[i].goal != rung for i in best)
        under_way = any(
            one.goal is not None and one.goal > rung and len(one.losses) <= rung + 1
            for one in settings
        )
        is_closed = is_closed and have_gone and not under_way
    if promotions:
        return max(promotions, key=lambda move: (move.goal, -promotions.index(move)))
    new = next((i for i, one in enumerate(settings) if one.goal is None), None)
    return None if new is None else Move(new, 0)


def _best(settings: Sequence[Standing], rung: int, factor: int, is_closed: bool) -> list[int]:
    """The settings that may go on from a rung by now, the best first."""
    there = [i for i, one in enumerate(settings) if len(one.losses) > rung]
    there.sort(key=lambda i: settings[i].losses[rung])
    n = len(there) // factor
    best = there[: max(1, n) if is_closed else n]
    return [i for i in best if math.isfinite(settings[i].losses[rung])]
