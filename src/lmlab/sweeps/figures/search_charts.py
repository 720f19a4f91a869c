"""A search: how its best went on, which keys mattered, and where the good trials lie."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lmlab.sweeps.compare.trials import Trials
from lmlab.sweeps.figures import charts, scales
from lmlab.sweeps.figures.charts import INK, PALE, Chart
from lmlab.sweeps.figures.scales import COLOURS, GREY, places
from lmlab.sweeps.table.values import (
    ceiling,
    heading,
    is_missing,
    is_number,
    label,
    ordered,
    wants_log,
)
from lmlab.sweeps.table.words import setting_names

MOST_WORDS = 12  # values of an axis that are written; of more the ends are
ROW, BETWEEN, HIGH = 30, 120, 300  # pixels


def history(trials: Trials) -> Chart:
    """The loss of each trial in the order in which they were begun, and the lowest so far."""
    runs, metric = trials.runs, trials.table.metric
    top = ceiling(runs["loss"])
    best = runs["loss"].mask(runs["is_pruned"]).cummin().ffill()
    points = pd.DataFrame(
        {
            "number": runs["number"],
            "loss": runs["loss"].where(runs["loss"] <= top),
            "best": best,
            "kind": np.where(runs["is_pruned"], "pruned", "done"),
            "setting": setting_names(trials.values, trials.keys),
        }
    )
    x = alt.X("number:Q", title="trial", axis=alt.Axis(format=",d"), scale=alt.Scale(padding=14))
    axis = scales.loss_axis(charts.with_unit(metric))
    base = alt.Chart(charts.data(points)).encode(x)
    tooltip = ["number:Q", "setting:N", alt.Tooltip("loss:Q", format=".4f"), "kind:N"]
    colour = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=["done", "pruned"], range=[COLOURS[0], GREY]),
        legend=alt.Legend(title=None) if runs["is_pruned"].any() else None,
    )
    layers = [
        base.mark_line(interpolate="step-after", color=INK, strokeWidth=1.6).encode(
            alt.Y("best", **axis)
        ),
        base.mark_point(filled=True, size=45).encode(
            alt.Y("loss", **axis), colour, tooltip=tooltip
        ),
    ]
    lost = f"{n} off the scale" if (n := int((runs["loss"] > top).sum())) else ""
    below = charts.joined("line: the lowest so far", lost)
    return charts.titled(charts.sized(layers), f"{metric} of each trial", below)


def importances_chart(trials: Trials, shares: pd.Series) -> Chart:
    """A bar for each key."""
    rows = pd.DataFrame({"place": range(len(shares)), "share": shares.to_numpy()})
    y = alt.Y("place", **scales.word_axis(list(map(heading, shares.index)), ""))
    x = alt.X("share:Q", title="importance", scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(charts.data(rows)).encode(y, x)
    text = base.mark_text(align="left", dx=5, color=INK)
    text = text.encode(text=alt.Text("share:Q", format=".2f"))
    chart = charts.sized([base.mark_bar(color=COLOURS[0]), text], height=ROW * max(2, len(rows)))
    title = f"what decides whether {trials.table.metric} is among the best tenth"
    return charts.titled(chart, title, "PED-ANOVA; together 1")


def parallel(trials: Trials) -> Chart:
    """A line for each trial through its values, coloured by its loss."""
    runs, metric = trials.runs, trials.table.metric
    frames, ticks = [], []
    top = ceiling(runs["loss"])
    axes = [*((key, trials.values[key]) for key in trials.keys), ("", runs["loss"].clip(upper=top))]
    for place, (key, values) in enumerate(axes):
        at, words = _axis(values, key)
        frames.append(pd.DataFrame({"axis": place, "at": at, "number": runs["number"]}))
        ticks += [{"axis": place, "at": height, "text": text} for height, text in words]
    about = runs.assign(
        setting=setting_names(trials.values, trials.keys), is_best=runs.index == trials.best.name
    )
    lines = pd.concat(frames).merge(about[["number", "loss", "setting", "is_best"]], on="number")
    names = [*map(heading, trials.keys), metric]
    axis = scales.word_axis(names, "", 0.0, labelAngle=-18 if len(names) > 4 else 0, domain=False)
    x = alt.X("axis", **{**axis, "type": "ordinal", "axis": {**axis["axis"], "grid": True}})
    y: Any = alt.Y("at:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    low, high = runs["loss"].min(), min(top, runs["loss"].max())
    colour = alt.Color(
        "loss:Q",
        title=charts.with_unit(metric),
        scale=alt.Scale(scheme="viridis", domain=[low, high], clamp=True),
        legend=alt.Legend(titleOrient="right", titleLimit=300, gradientLength=140),
    )
    tooltip = ["number:Q", "setting:N", alt.Tooltip("loss:Q", format=".4f")]
    line = alt.Chart(charts.data(lines)).mark_line(strokeWidth=1.6)
    line = line.encode(x, y, colour, detail="number:Q", tooltip=tooltip)
    best = line.transform_filter("datum.is_best").mark_line(strokeWidth=4)
    text = alt.Chart(charts.data(pd.DataFrame(ticks)))
    text = text.mark_text(align="left", dx=5, color=PALE, fontSize=11).encode(x, y, text="text:N")
    wide = BETWEEN * len(names)
    below = "thick: the best trial; dark is a low loss"
    chart = charts.sized([line.encode(opacity=alt.value(0.7)), best, text], wide, HIGH)
    return charts.titled(chart, f"{metric} by all keys at once", below)


def _axis(values: pd.Series, key: str) -> tuple[pd.Series, list[tuple[float, str]]]:
    """Where values lie between 0 and 1, and what is written where."""
    different = ordered(values)
    if all(map(is_number, different)) and not values.map(is_missing).any():
        numbers = values.astype("float64")
        of = np.log(numbers) if wants_log(list(numbers)) else numbers
        low, width = of.min(), np.ptp(of) or 1.0
        at = (of - low) / width
        shown = different if len(different) <= 6 else [different[0], different[-1]]
        heights = at.groupby(numbers).first()
        return at, [(float(heights[value]), label(key, value, 12)) for value in shown]
    at = places(values) / max(1, len(different) - 1)
    step = 1 / max(1, len(different) - 1)
    words = [(i * step, label(key, value, 12)) for i, value in enumerate(different[:MOST_WORDS])]
    return at, words
