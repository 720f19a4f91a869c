"""How long a sweep will take yet, by what its jobs have taken so far.

A job of a size that has been seen takes as long as those did. Of one that has not, its operations
(FLOPs) tell: what two sizes took gives a line, and one alone a proportion, if it is no more than
ten times smaller. Else nobody knows, and the time left is a lower bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from lmlab.sweeps.journal.planned import Work

FARTHEST = 10.0  # so many times the operations of one size are told by that alone


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until all jobs of a sweep have ended; `is_least`: or more, nobody knows how much."""

    seconds: float
    is_least: bool = False


@dataclass(frozen=True)
class Running:
    """A job at work: the seconds it has taken, and by its own pace takes yet, if that is known."""

    work: Work
    taken: float
    left: float | None = None


class Durations:
    """What jobs take, in seconds, by their work."""

    def __init__(self, taken: Iterable[tuple[Work, float]]):
        """`taken` is what those that were trained to their end have taken."""
        by_work: dict[Work, list[float]] = defaultdict(list)
        for work, seconds in taken:
            by_work[work].append(seconds)
        self._means = {work: fmean(all_of_it) for work, all_of_it in by_work.items()}

    def of(self, work: Work) -> tuple[float, bool] | None:
        """Seconds of a job, and whether that is only the least it takes; None: nothing is known."""
        if not self._means:
            return None
        if work in self._means:
            return self._means[work], False
        by_flops = {w.flops: mean for w, mean in self._means.items() if w.flops is not None}
        if work.flops is None or not by_flops:
            # As where no model says what it computes: more steps take longer.
            return fmean(self._means.values()), bool(by_flops) or work.flops is not None
        nearest = min(by_flops, key=lambda flops: abs(flops - work.flops))  # type: ignore[operator]
        if len(by_flops) == 1:
            if work.flops <= nearest:
                return by_flops[nearest], False  # at most
            if work.flops <= FARTHEST * nearest:
                return by_flops[nearest] * work.flops / nearest, False
            return by_flops[nearest], True
        slope, start = _line(list(by_flops.items()))
        if slope <= 0:
            return by_flops[nearest], work.flops > max(by_flops)
        return max(min(self._means.values()), start + slope * work.flops), False


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The slope and the start of the line through points, by least squares."""
    x, y = (fmean(values) for values in zip(*points, strict=True))
    spread = sum((one - x) ** 2 for one, _ in points)
    if not spread:  # nearly the same
        return 0.0, y
    slope = sum((one - x) * (other - y) for one, other in points) / spread
    return slope, y - slope * x


def time_left(
    ended: Iterable[tuple[Work, float]],
    running: Sequence[Running],
    waiting: Sequence[Work],
    at_once: int,
) -> TimeLeft | None:
    """The time left: `ended` is what the jobs that were trained to their end have taken, in
    seconds; so many run at once. None: nothing is known yet."""
    taken = list(ended)
    seen = {work for work, _ in taken}
    paces = [(r.work, r.taken + r.left) for r in running if r.left is not None]
    durations = Durations([*taken, *(pace for pace in paces if pace[0] not in seen)])
    left: list[float] = []
    is_least = False
    for job in running:
        if job.left is not None:
            left.append(job.left)
        elif (estimate := durations.of(job.work)) is None:
            return None
        else:
            left.append(max(0.0, estimate[0] - job.taken))
            is_least |= estimate[1]
    for work in waiting:
        if (estimate := durations.of(work)) is None:
            return None
        left.append(estimate[0])
        is_least |= estimate[1]
    if not left:
        return None
    return TimeLeft(max(sum(left) / max(1, at_once), *left), is_least)
