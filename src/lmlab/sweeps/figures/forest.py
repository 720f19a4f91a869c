"""A forest plot: how far each setting is from the baseline, with its interval."""

from __future__ import annotations

import statistics
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lmlab.sweeps.compare.differences import Differences
from lmlab.sweeps.compare.paired import LEVEL
from lmlab.sweeps.figures.charts import INK, PALE, Chart, data, titled
from lmlab.sweeps.figures.scales import COLOURS, GREY, word_axis
from lmlab.sweeps.table.values import heading
from lmlab.sweeps.table.words import name_of, setting_names

MOST_SETTINGS = 30
WIDEST = 10  # differences beyond so many times the usual one are off the scale
WIDTH, ROW = 420, 34
BESIDE = 270  # pixels for the figures at the right of the axes


def forest(differences: Differences, texts: pd.DataFrame) -> Chart:
    """The mean difference of each setting with its 95 % interval, and a dot for each seed.

    Settings go down the page, the best on top, their figures (`texts`: difference, 95 %, p) at the
    right.
    """
    table, rows = differences.table, differences.settings
    rows = rows[(rows["pairs"] > 0) | (rows.index == differences.baseline)]
    n_all, rows = len(rows), rows.head(MOST_SETTINGS)
    limit = WIDEST * (
        statistics.median_low(np.abs(rows["difference"].drop(differences.baseline))) or np.inf
    )
    rows = rows.assign(
        place=range(len(rows)),
        is_told=differences.told[rows.index],
        is_base=rows.index == differences.baseline,
        is_off=np.abs(rows["difference"]) > limit,
        **texts.loc[rows.index, ["difference", "95 %", "p"]].set_axis(
            ["text", "interval", "chance"], axis=1
        ),
    )
    names = setting_names(table.settings.loc[rows.index], table.keys, 32)
    y = alt.Y("place", **word_axis(names, ", ".join(map(heading, table.keys)), ticks=False))
    title = f"difference, {differences.unit} (below zero is better)"
    x: dict[str, Any] = {"type": "quantitative", "title": title, "axis": {"tickCount": 6},
         "scale": {"zero": True, "nice": False, "padding": 22}}  # fmt: skip
    seeds = differences.by_seed[rows.index[~rows["is_off"]]].melt(value_name="seed").dropna()
    seeds["place"] = seeds["setting"].map(rows["place"])
    seeds = seeds[~seeds["setting"].eq(differences.baseline)]

    base = alt.Chart(data(rows.drop(columns="why"))).encode(y)
    shown = base.transform_filter("!datum.is_off && !datum.is_base")
    colour = alt.condition("datum.is_told", alt.value(COLOURS[0]), alt.value(GREY))
    mean = alt.X("difference", **x)
    dots = alt.Chart(data(seeds[["place", "seed"]])).mark_point(filled=True, size=20, yOffset=9)
    zero = alt.Chart(data(pd.DataFrame({"zero": [0]}))).mark_rule(color=INK)
    point = shown.mark_point(size=65, strokeWidth=2, opacity=1)
    layers = [
        zero.encode(alt.X("zero", **x)),
        dots.encode(y, alt.X("seed", **x), color=alt.value("#a0a0a0")),
        shown.mark_rule(strokeWidth=2.6).encode(alt.X("low", **x), x2="high", color=colour),
        point.encode(
            mean,
            stroke=colour,
            fill=alt.condition("datum.is_told", alt.value(COLOURS[0]), alt.value("white")),
        ),
        base.transform_filter("datum.is_base")
        .mark_point(shape="diamond", size=110, filled=True, opacity=1, color=INK)
        .encode(x=alt.datum(0)),
    ]
    if rows["is_off"].any():
        arrow = base.transform_filter("datum.is_off").mark_point(filled=True, size=110, color=GREY)
        for is_right in (True, False):
            of_side = arrow.transform_filter(f"(datum.difference > 0) == {str(is_right).lower()}")
            shape = "triangle-right" if is_right else "triangle-left"
            edge = alt.value(WIDTH - 8 if is_right else 8)
            layers.append(of_side.encode(x=edge, shape=alt.value(shape)))
    columns: list[tuple[str, str, int, Any]] = [
        ("text", "difference", 95, "right"),
        ("interval", "95 %", 105, "left"),
        ("chance", "p (Holm)", BESIDE, "right"),
    ]
    for column, head, at, side in columns:
        text = base.mark_text(align=side, color=INK).encode(x=alt.value(WIDTH + at))
        layers.append(text.encode(text=f"{column}:N"))
        above = alt.Chart(data(pd.DataFrame({"head": [head]}))).mark_text(align=side, color=PALE)
        layers.append(above.encode(x=alt.value(WIDTH + at), y=alt.value(-8), text="head:N"))
    below = [_what_is_drawn(differences)]
    if rows["is_off"].any():
        below.append("arrow: off the scale")
    if len(rows) < n_all:
        below.append(f"the {len(rows)} best of {n_all}")
    size = {"width": WIDTH, "height": ROW * max(3, len(rows))}
    chart = alt.layer(*layers).properties(**size)
    chart.padding = {"left": 14, "top": 14, "bottom": 14, "right": BESIDE + 24}
    name = name_of(table, differences.baseline) if differences.baseline is not None else "nothing"
    title = f"{differences.quantity}, compared with {name}"
    return titled(chart, title, "; ".join(below))


def _what_is_drawn(differences: Differences) -> str:
    n = sorted(set(differences.settings["pairs"][differences.tested]))
    if not n:
        return "one seed in common: no interval can be given"
    seeds = f"{n[0]} to {n[-1]}" if len(n) > 1 else str(n[0])
    return (
        f"mean of {seeds} seeds (dots), 95 % interval; hollow and grey: not told apart, p ≥ {LEVEL}"
    )
