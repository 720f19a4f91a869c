"""Losses while training: by step, and by the operations that training took."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lmlab.sweeps.figures import charts, scales
from lmlab.sweeps.figures.charts import Chart, Lines
from lmlab.sweeps.table.curves import has_curves, read_curves, shared_steps, spent_at
from lmlab.sweeps.table.settings import Table, folded
from lmlab.sweeps.table.values import canonical, ceiling, heading, is_number
from lmlab.sweeps.table.words import setting_names

CURVE = "val/loss"
FLOPS = "flops"
FEW = 15  # evaluations, each of which gets a marker


def curves_to_draw(table: Table) -> pd.DataFrame:
    """val/loss of the best settings that kept any: columns setting, run, step and val/loss."""
    runs = folded(table.runs)
    runs = runs[runs["directory"].map(has_curves).astype(bool) | runs["diverged"]]
    runs = runs[runs["setting"].isin(runs["setting"].unique()[: scales.MOST_DRAWN])]
    return shared_steps(read_curves(runs, [CURVE]), CURVE)


def with_flops(table: Table, curves: pd.DataFrame) -> pd.DataFrame | None:
    """The same curves with the operations that training took to each point; None where each step
    of all settings takes as many, or one takes none (a bigram only looks up) or nobody knows."""
    curves = curves[curves["step"] > 0]  # the axis is logarithmic
    flops = spent_at(table, curves, "flops")
    a_step = flops / curves["step"]
    if not len(curves) or not (a_step > 0).all() or np.ptp(a_step) <= 0.01 * a_step.max():
        return None
    return curves.assign(**{FLOPS: flops})


def loss_curves(table: Table, curves: pd.DataFrame, x: str = "step") -> Chart:
    """val/loss while training: means, with a band of one standard deviation over seeds.

    `curves` has columns setting, run, step, val/loss and `x`: steps, or operations.
    """
    limits = _late_range(curves)
    off = _never_below(curves, limits[1])
    curves = curves[~curves["setting"].isin(off)]
    settings = table.settings.loc[curves["setting"].unique()]
    keys = [key for key in table.keys if settings[key].map(canonical).nunique() > 1]
    if len(keys) == 1 and all(map(is_number, settings[keys[0]])):
        settings = settings.sort_values(keys[0], kind="stable")
    styles, names = scales.styles_of_settings(table), setting_names(settings, keys)
    lines = Lines(names, [styles[i] for i in settings.index], ", ".join(map(heading, keys)))

    by_step = curves.groupby(["setting", "step"])
    points = by_step[CURVE].agg(mean="mean", sd="std").assign(x=by_step[x].mean()).reset_index()
    points["line"] = points["setting"].map(list(settings.index).index)
    points = points.assign(low=points["mean"] - points["sd"], high=points["mean"] + points["sd"])
    few = points.groupby("line")["step"].transform("size") <= FEW
    points = lines.marked(points).assign(size=few.map({True: 24, False: 1}))
    points["setting"] = points["line"].map(dict(enumerate(names)))
    points = _within(points, *limits, on_log=x == FLOPS)

    if x == FLOPS:
        title = "floating-point operations of training"
        place = scales.ratio_axis(points["x"].min(), points["x"].max(), title, written="~e")
    else:
        axis = {"format": ",d", "tickCount": 7, "labelOverlap": "greedy"}
        place = {"type": "quantitative", "title": x, "axis": axis}
    loss = scales.loss_axis(f"{CURVE}, nats per token", *limits)
    picked = alt.selection_point(name="picked", fields=["line"], bind="legend")

    def seen(opacity: float) -> Any:
        return alt.when(picked).then(alt.value(opacity)).otherwise(alt.value(opacity / 8))

    base = alt.Chart(charts.data(points)).encode(alt.X("x", **place), lines.colour())
    told = ["setting:N", alt.Tooltip("step:Q", format=",d")]
    told += [alt.Tooltip("mean:Q", title=CURVE, format=".4f"), alt.Tooltip("sd:Q", format=".4f")]
    mean = alt.Y("mean", **loss)
    band = base.mark_area(opacity=1).encode(alt.Y("low", **loss), y2="high", fillOpacity=seen(0.18))
    line = base.mark_line().encode(mean, charts.DASH, strokeOpacity=seen(1)).add_params(picked)
    point = base.mark_point().encode(mean, lines.shape(), charts.FILL, charts.SIZE, tooltip=told)
    marks = point.encode(fillOpacity=seen(1), strokeOpacity=seen(1))

    n, n_all = len(settings) + len(off), len(table.settings)
    some = f": the {n} best of {n_all}" if n < n_all else ""
    lost = f"; {len(off)} off the scale" if len(off) else ""
    if n_diverged := int((settings["diverged"] > 0).sum()):
        lost += f"; of {n_diverged} a seed diverged where the line ends"
    title = f"{CURVE} by compute" if x == FLOPS else f"{CURVE} while training"
    below = charts.what_a_point_is(settings) + lost
    return charts.titled(charts.sized([band, line, marks]), f"{title}{some}", below)


def _late_range(curves: pd.DataFrame) -> tuple[float | None, float | None]:
    """The range of an axis that shows what comes after a fifth of training.

    The steep beginning would press the rest flat.
    """
    means = curves.groupby(["setting", "step"], as_index=False)[CURVE].mean()
    last = means.groupby("setting")["step"].transform("max")
    late = means[CURVE][means["step"] >= last / 5]
    low, high = late.min(), min(late.max(), ceiling(late))
    margin = 0.06 * (high - low)
    return (low - margin, high + margin) if high > low else (None, None)


def _within(
    points: pd.DataFrame, low: float | None, high: float | None, on_log: bool
) -> pd.DataFrame:
    """The points of curves that are cut where they leave the axis. (A clipped mark says the same,
    and takes a renderer seconds.)"""
    if low is None or high is None:
        return points
    columns, drawn = ["x", "mean", "low", "high"], []
    for _, line in points.groupby("line"):
        line = line.reset_index(drop=True)
        last = np.flatnonzero(np.diff(line["mean"] > high))  # before it crosses the upper end
        before, after = line.loc[last, columns], line.loc[last + 1, columns].set_index(last)
        share = (before["mean"] - high) / (before["mean"] - after["mean"])
        crossing = before + (after - before).mul(share, axis=0)
        if on_log:
            crossing["x"] = before["x"] * (after["x"] / before["x"]) ** share
        line[columns[1:]] = line[columns[1:]].where(line["mean"] <= high)
        drawn += [line, line.loc[last].assign(**crossing, size=0)]
    cut = pd.concat(drawn).sort_values(["line", "x"], kind="stable")
    return cut.assign(**cut[["low", "high"]].clip(low, high))


def _never_below(curves: pd.DataFrame, top: float | None) -> pd.Index:
    """The settings with no mean in sight: their bands would only cover the others."""
    lowest = curves.groupby(["setting", "step"])[CURVE].mean().groupby("setting").min()
    return lowest.index[lowest > (np.inf if top is None else top)]
