"""Fair timing on a machine that is never quite quiet, and how results are kept and shown.

Contestants take turns: one measurement of each is a round, so that a neighbour who wakes up slows
all of them alike. What is compared is the median over rounds of the ratio within a round, which is
steadier than a ratio of medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

Seconds = dict[str, list[float]]  # contestant -> what it took in each round


def interleave(contestants: Mapping[str, Callable[[], float]], rounds: int) -> Seconds:
    """Let every contestant time itself once a round; a turn's order moves on by one each round."""
    names = list(contestants)
    seconds: Seconds = {name: [] for name in names}
    for i in range(rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(contestants[name]())
    return seconds


def ratio(seconds: Seconds, ours: str, theirs: str) -> float:
    """The median over rounds of ours / theirs."""
    pairs = zip(seconds[ours], seconds[theirs], strict=True)
    return statistics.median(a / b for a, b in pairs)


@dataclass(frozen=True)
class Ratio:
    """One figure that says how we stand."""

    what: str
    value: float
    at_most: float | None = None  # what was aimed for; at_least where more is better
    at_least: float | None = None

    @property
    def reached(self) -> bool | None:
        """None where nothing was aimed for."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    @property
    def aim(self) -> str:
        """What was aimed for, in words."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return "" if self.at_least is None else f"at least {self.at_least:g}"


@dataclass(frozen=True)
class Table:
    """Figures beside each other; the first column names the rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass
class Part:
    """What one part of the benchmark found."""

    name: str
    ratios: list[Ratio] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    seconds: dict[str, Seconds] = field(default_factory=dict)  # every measurement, by table


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(values)
