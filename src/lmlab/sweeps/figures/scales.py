"""How values become places and colours in a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)

from lmlab.sweeps.table.values import canonical, is_missing, is_number, shown

CHARACTERS = 58  # of tick labels that fit along an axis
FARTHEST = 1e100
# Okabe and Ito's palette for colour-blind readers, without yellow, which is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def ordered(values: Iterable[Any]) -> list[Any]:
    """The different values: numbers by size, anything else in the order in which it comes."""
    different = {canonical(value): value for value in values if not is_missing(value)}.values()
    return sorted(different) if all(map(is_number, different)) else list(different)


def has_a_place(value: Any) -> bool:
    """Whether an axis can show a number at its place: its margins must be floats, too."""
    return is_number(value) and (value == 0 or 1 / FARTHEST < abs(value) < FARTHEST)


def places(values: pd.Series) -> pd.Series:
    """The place of each value among the different ones, from 0."""
    place = {canonical(value): i for i, value in enumerate(ordered(values))}
    return values.map(canonical).map(place)


def wants_log(values: Sequence[float]) -> bool:
    """Whether numbers are spread more evenly by ratio than by difference, over a factor of 4."""
    points = sorted(set(values))
    if len(points) < 2 or points[0] <= 0 or points[-1] / points[0] < 4:
        return False
    if len(points) == 2:
        return points[1] / points[0] >= 10

    def widest(at: list[float]) -> float:
        return max(b - a for a, b in pairwise(at)) / (at[-1] - at[0])

    return widest([math.log(x) for x in points]) < widest(points)


class Style(NamedTuple):
    """How a line and its points are drawn."""

    colour: Any
    marker: str = "o"
    dash: str = "-"


def distinct(n: int) -> list[Style]:
    """A style for each of n things."""
    found = [Style(colour) for colour in COLOURS] + [Style(c, "s", "--") for c in COLOURS]
    return [found[i % len(found)] for i in range(n)]


def styles_of(values: Sequence[Any]) -> list[Style]:
    """A style for each value: numbers have colours along a scale."""
    if len(values) < 2 or not all(map(is_number, values)):
        return distinct(len(values))
    return [Style(colour) for colour in sns.color_palette("viridis", len(values))]


def number_axis(ax: Axes, values: list[float], title: str) -> None:
    """A log axis where the values ask for it; ticks at the values, if there is room for them."""
    ax.set_xlabel(title)
    on_log = wants_log(values)
    if on_log:
        log_axis(ax, values)
    at = [math.log(x) for x in values] if on_log else values
    narrowest = min((b - a for a, b in pairwise(at)), default=1.0) / ((at[-1] - at[0]) or 1.0)
    room = narrowest * CHARACTERS - max(len(shown(x)) for x in values) - 1.5
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: shown(float(x))))
    if room > 0 or len(values) == 1:
        ax.xaxis.set_major_locator(FixedLocator(values))
        ax.xaxis.set_minor_locator(NullLocator())


def log_axis(ax: Axes, values: Sequence[float], counts: bool = False) -> None:
    """Numbers by ratio, for values in ascending order; `counts` are written 5k, 2M."""
    ax.set_xscale("log")
    ax.grid(which="minor", axis="x", visible=False)
    ax.xaxis.set_minor_formatter(NullFormatter())
    decades = math.log10(values[-1] / values[0])
    # Where fewer than two of these lie in sight, the locator takes other round numbers.
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3.5 else (1,)))
    if counts:
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
