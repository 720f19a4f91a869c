"""A forest plot: how far each setting is from the baseline, with its interval."""

from __future__ import annotations

import statistics
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lmlab.sweeps.compare.differences import Differences
from lmlab.sweeps.compare.paired import LEVEL
from lmlab.sweeps.figures import charts, scales
from lmlab.sweeps.figures.charts import INK, Chart
from lmlab.sweeps.figures.scales import GREY
from lmlab.sweeps.table.values import heading
from lmlab.sweeps.table.words import name_of, setting_names

MOST_SETTINGS = 30
WIDEST = 10  # differences beyond so many times the usual one are off the scale
WIDTH, ROW = 285, 34


def forest(compared: Differences, texts: pd.DataFrame) -> Chart:
    """The mean difference of each setting with its 95 % interval, and a dot for each seed.

    Settings go down the page, the best on top, their figures (`texts`: difference, 95 %, p) at the
    right. The comparison has a baseline.
    """
    table, base = compared.table, compared.baseline
    rows = compared.settings[(compared.settings["pairs"] > 0) | (compared.settings.index == base)]
    n_all, rows = len(rows), rows.head(MOST_SETTINGS)
    others = rows["difference"].drop(base, errors="ignore")  # the worst has no place any more
    usual = statistics.median_low(np.abs(others))
    is_off = np.abs(rows["difference"]) > WIDEST * (usual or np.inf)
    styles = scales.styles_of_settings(table)
    colours = pd.Series([styles[i].colour if i in styles else GREY for i in rows.index], rows.index)
    drawn = rows[["difference", "low", "high"]].assign(
        place=range(len(rows)),
        colour=colours,
        fill=colours.mask(~compared.told, "white"),
        kind=np.where(rows.index == base, "base", np.where(is_off, "off", "shown")),
        side=np.where(rows["difference"] > 0, WIDTH - 8, 8),
        arrow=np.where(rows["difference"] > 0, "triangle-right", "triangle-left"),
        **texts.loc[rows.index].set_axis(["value", "text", "interval", "chance"], axis=1),
    )
    seeds = compared.by_seed[rows.index[drawn["kind"] == "shown"]].melt(value_name="seed").dropna()
    seeds = pd.DataFrame({"place": seeds["setting"].map(drawn["place"]), "seed": seeds["seed"]})

    names = setting_names(table.settings.loc[rows.index], table.keys, 32)
    keys = ", ".join(map(heading, table.keys))
    y = alt.Y("place", **scales.word_axis(names, keys, ticks=False))
    title = f"difference, {compared.unit} (below zero is better)"
    scale = {"zero": True, "nice": False, "padding": 22}
    x: Any = {"type": "quantitative", "title": title, "axis": {"tickCount": 6}, "scale": scale}
    every = alt.Chart(charts.data(drawn)).encode(y)
    shown, baseline, off = (
        every.transform_filter(f"datum.kind == '{kind}'") for kind in ("shown", "base", "off")
    )
    stroke = alt.Stroke("colour:N", scale=None)
    dots = alt.Chart(charts.data(seeds)).mark_point(filled=True, size=20, yOffset=9)
    layers: list[Any] = [
        alt.Chart(charts.data(pd.DataFrame({"zero": [0]})))
        .mark_rule(color=INK)
        .encode(alt.X("zero", **x)),
        baseline.mark_point(shape="diamond", size=110, filled=True, color=INK).encode(
            x=alt.datum(0)
        ),
        off.mark_point(filled=True, size=110, color=GREY).encode(
            x=alt.X("side:Q", scale=None), shape=alt.Shape("arrow:N", scale=None)
        ),
    ]
    # Vega warns of a scale for which there is no number: of one seed there is no interval.
    if drawn.loc[drawn["kind"] == "shown", "low"].notna().any():
        layers[1:1] = [
            shown.mark_rule(strokeWidth=2.6).encode(alt.X("low", **x), stroke, alt.X2("high"))
        ]
    if len(seeds):
        layers[1:1] = [dots.encode(y, alt.X("seed", **x), alt.ColorValue("#a0a0a0"))]
    if (drawn["kind"] == "shown").any():
        means = shown.mark_point(size=65).encode(alt.X("difference", **x), stroke, charts.FILL)
        layers.append(means)
    columns: list[tuple[str, str, int, Any]] = [
        ("text", "difference", 90, "right"),
        ("interval", "95 %", 104, "left"),
        ("chance", "p (Holm)", 288, "right"),
    ]
    for column, head, at, side in columns:
        place = alt.XValue(WIDTH + at)
        text = every.mark_text(align=side, color=INK, fontSize=12)
        above = alt.Chart(charts.data(pd.DataFrame({"head": [head]})))
        above = above.mark_text(align=side, color=charts.PALE, fontSize=12)
        layers.append(text.encode(place, alt.Text(f"{column}:N")))
        layers.append(above.encode(place, alt.YValue(-8), alt.Text("head:N")))
    below = charts.joined(
        _what_is_drawn(compared),
        "arrow: off the scale" if is_off.any() else "",
        f"the {len(rows)} best of {n_all}" if len(rows) < n_all else "",
    )
    chart = charts.sized(layers, WIDTH, ROW * max(3, len(rows)))
    name = "nothing" if base is None else name_of(table, base)
    return charts.titled(chart, f"{compared.quantity}, compared with {name}", below)


def _what_is_drawn(compared: Differences) -> str:
    n = sorted(set(compared.settings["pairs"][compared.tested]))
    seeds = f"{n[0]} to {n[-1]}" if len(n) > 1 else str(n[0])
    return f"mean of {seeds} seeds (dots), 95 % interval; hollow: not told apart, p ≥ {LEVEL}"
