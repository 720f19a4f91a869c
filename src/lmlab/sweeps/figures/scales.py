"""How values become places and colours in a figure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lmlab.sweeps.table.settings import Table
from lmlab.sweeps.table.values import canonical, is_number, ordered, wants_log

FARTHEST = 1e100
MOST_TICKS = 40  # that are tried at the values themselves; those without room have no label
MOST_DRAWN = 12  # settings with a colour of their own
# Okabe and Ito's palette for colour-blind readers, without yellow, which is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Tol's muted ones: for lines that join several settings, whose own colours they must not have.
OF_VALUES = ("#6699CC", "#CC6677", "#44AA99", "#AA4499", "#999933", "#88CCEE", "#EE99AA", "#DDCC77")
VIRIDIS = (
    *("#440154", "#482777", "#3e4989", "#31688e", "#26828e"),
    *("#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725"),
)
GREY = "#8a8a8a"
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
Axis = dict[str, Any]  # the arguments of altair's X or Y


def has_a_place(value: Any) -> bool:
    """Whether an axis can show a number at its place: its margins must be floats, too."""
    return is_number(value) and (value == 0 or 1 / FARTHEST < abs(value) < FARTHEST)


def places(values: pd.Series) -> pd.Series:
    """The place of each value among the different ones, from 0."""
    place = {canonical(value): i for i, value in enumerate(ordered(values))}
    return values.map(canonical).map(place)


class Style(NamedTuple):
    """How a line and its points are drawn, in Vega-Lite's words."""

    colour: str
    shape: str = "circle"
    dash: tuple[int, ...] = ()
    size: int = 55  # of a point, square pixels


def distinct(n: int, colours: Sequence[str] = COLOURS) -> list[Style]:
    """A style for each of n things."""
    styles = [Style(c) for c in colours] + [Style(c, "square", (6, 3)) for c in colours]
    return [styles[i % len(styles)] for i in range(n)]


def styles_of(values: Sequence[Any], colours: Sequence[str] = OF_VALUES) -> list[Style]:
    """Colours for values in order: for numbers they go from dark to light."""
    if len(values) < 3 or not all(map(is_number, values)):
        return distinct(len(values), colours)
    at = np.linspace(0, len(VIRIDIS) - 1, len(values) + 2)[1:-1]
    channels = [[int(colour[i : i + 2], 16) for colour in VIRIDIS] for i in (1, 3, 5)]
    mixed = np.stack([np.interp(at, range(len(VIRIDIS)), channel) for channel in channels], axis=1)
    return [Style("#" + "".join(f"{round(x):02x}" for x in rgb)) for rgb in mixed]


def styles_of_settings(table: Table) -> dict[int, Style]:
    """The style of each of the best MOST_DRAWN settings, the same in every figure."""
    best = table.settings.head(MOST_DRAWN)
    if len(table.keys) == 1 and all(map(is_number, best[table.keys[0]])):
        best = best.loc[places(best[table.keys[0]]).sort_values(kind="stable").index]
        styles = styles_of(list(best[table.keys[0]]), COLOURS)
    else:
        styles = distinct(len(best))
    return dict(zip(best.index, styles, strict=True))


def number_axis(values: Sequence[float], title: str) -> Axis:
    """An axis of numbers, by ratio where they ask for it, with ticks at the values."""
    ticks: Sequence[float] | None = values
    if len(values) > MOST_TICKS:
        ticks = ratio_ticks(min(values), max(values)) if wants_log(values) else None
    # As an expression: a format alone is given as few digits as set the ticks apart, 50 as 5e+1.
    return _axis(title, wants_log(values), ticks, {"labelExpr": "format(datum.value, '.6~g')"})


def ratio_axis(low: float, high: float, title: str, written: str = "~s") -> Axis:
    """A logarithmic axis with ticks at round numbers: 5k, 2M, or as `written` in d3's words; those
    with an exponent as 2e12."""
    plain = f"replace(format(datum.value, '{written}'), 'e+', 'e')"
    return _axis(title, True, ratio_ticks(low, high), {"labelExpr": plain})


def ratio_ticks(low: float, high: float) -> list[float]:
    """Round numbers around two others: 1, 2, 5, 10, …, or powers of ten where that is enough."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = (1, 2, 5) if math.log10(high / low) < 3.5 else (1,)
    return [step * 10.0**power for power in powers for step in steps]


def _axis(title: str, on_log: bool, ticks: Sequence[float] | None, written: Axis) -> Axis:
    scale: Axis = {"type": "log"} if on_log else {"type": "linear", "zero": False}
    axis = {"labelOverlap": "greedy", "labelSeparation": 4, **written}
    if ticks is not None:
        axis["values"] = list(ticks)
    scale |= {"nice": False, "padding": 24}
    return {"type": "quantitative", "title": title, "scale": scale, "axis": axis}


def loss_axis(title: str, low: float | None = None, high: float | None = None) -> Axis:
    """An axis of losses, over what is drawn or in given bounds."""
    scale: Axis = {"zero": False, "nice": False}
    scale |= {"padding": 28} if low is None else {"domain": [low, high]}
    return {"type": "quantitative", "title": title, "scale": scale, "axis": {"tickCount": 7}}


def word_axis(words: Sequence[str], title: str, padding: float = 0.3, **more: Any) -> Axis:
    """An axis of words at the places 0, 1, …: two that look alike stay two."""
    axis = {"labelExpr": by_place(words), "labelLimit": 320, "grid": False, **more}
    scale = {"domain": list(range(len(words))), "padding": padding}
    return {"type": "ordinal", "title": title, "scale": scale, "axis": axis}


def by_place(words: Sequence[Any]) -> str:
    """Vega's expression for the word at a place."""
    return f"{json.dumps(drawable(list(words)))}[datum.value]"


def drawable(part: Any) -> Any:
    """A part of a chart whose texts an SVG can hold: at others vl-convert ends the process."""
    if isinstance(part, str):
        return NOT_IN_XML.sub("�", part)
    if isinstance(part, dict):
        return {drawable(key): drawable(value) for key, value in part.items()}
    return [drawable(value) for value in part] if isinstance(part, list) else part
