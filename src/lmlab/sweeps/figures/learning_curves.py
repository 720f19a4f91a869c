"""Losses while training: by step, and by the operations that training took."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from lmlab.sweeps.figures.charts import (
    HEIGHT,
    SHAPE,
    SIZE,
    WIDTH,
    Chart,
    Lines,
    data,
    loss_axis,
    titled,
    what_a_point_is,
)
from lmlab.sweeps.figures.scales import (
    MOST_DRAWN,
    WHOLE_POWERS,
    places,
    ratio_axis,
    styles_of_settings,
)
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
    runs = runs[runs["setting"].isin(runs["setting"].unique()[:MOST_DRAWN])]
    return shared_steps(read_curves(runs, [CURVE]), CURVE)


def with_flops(table: Table, curves: pd.DataFrame) -> pd.DataFrame | None:
    """The same curves with the operations that training took to each point; None where each step
    of all settings takes as many, or one takes none (a bigram only looks up) or nobody knows."""
    curves = curves[curves["step"] > 0]  # the axis is logarithmic
    flops = spent_at(table, curves, "flops")
    a_step = flops / curves["step"]
    if not (a_step > 0).all() or np.ptp(a_step) <= 0.01 * a_step.max():
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
        settings = settings.loc[places(settings[keys[0]]).sort_values(kind="stable").index]
    styles = styles_of_settings(table)
    names = setting_names(settings, keys)
    lines = Lines(names, [styles[i] for i in settings.index], ", ".join(map(heading, keys)))

    by_step = curves.groupby(["setting", "step"])
    points = by_step[CURVE].agg(mean="mean", sd="std").assign(x=by_step[x].mean()).reset_index()
    points["line"] = points["setting"].map({i: n for n, i in enumerate(settings.index)})
    points["name"] = points["line"].map(dict(enumerate(names)))
    if x == FLOPS:
        title = "floating-point operations of training"
        place = ratio_axis(points["x"].min(), points["x"].max(), title, WHOLE_POWERS)
    else:
        scale = {"zero": False, "nice": False, "padding": 10}
        axis = {"format": ",d", "tickCount": 7, "labelOverlap": "greedy"}
        place = {"type": "quantitative", "title": x, "scale": scale, "axis": axis}
    loss = loss_axis(f"{CURVE}, nats per token", *limits)
    points["low"], points["high"] = points["mean"] - points["sd"], points["mean"] + points["sd"]
    few = points.groupby("line")["step"].transform("size") <= FEW
    points["shape"] = lines.marks(points["line"])["shape"]
    points["size"] = few.map({True: 36, False: 4})
    points = _within(points, *limits, on_log=x == FLOPS)
    base = alt.Chart().encode(alt.X("x", **place))
    picked = alt.selection_point(name="picked", fields=["line"], bind="legend")
    line, band = base.mark_line(), base.mark_area(opacity=1)
    shown = {"color": lines.colour(), "y": alt.Y("mean", **loss)}
    layers = [
        band.encode(
            y=alt.Y("low", **loss),
            y2="high",
            color=lines.colour(),
            fillOpacity=alt.condition(picked, alt.value(0.18), alt.value(0.03)),
        ),
        line.encode(
            **shown,
            strokeDash=lines.dash(),
            strokeOpacity=alt.condition(picked, alt.value(1), alt.value(0.12)),
        ).add_params(picked),
    ]
    told = [alt.Tooltip("name:N", title="setting"), alt.Tooltip("step:Q", format=",d")]
    told += [alt.Tooltip("mean:Q", title=CURVE, format=".4f")]
    told += [alt.Tooltip("sd:Q", title="standard deviation", format=".4f")]
    marks = base.mark_point(filled=True, opacity=1)
    visible = alt.condition(picked, alt.value(1), alt.value(0.12))
    layers.append(marks.encode(SHAPE, SIZE, **shown, fillOpacity=visible, tooltip=told))
    n, n_all = len(settings) + len(off), len(table.settings)
    some = f": the {n} best of {n_all}" if n < n_all else ""
    lost = f"; {len(off)} off the scale" if len(off) else ""
    if n_diverged := int((settings["diverged"] > 0).sum()):
        lost += f"; of {n_diverged} a seed diverged where the line ends"
    title = f"{CURVE} by compute" if x == FLOPS else f"{CURVE} while training"
    chart = alt.layer(*layers, data=data(points)).properties(width=WIDTH, height=HEIGHT)
    return titled(chart, f"{title}{some}", what_a_point_is(settings) + lost)


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
    drawn = []
    for _, line in points.groupby("line"):
        line = line.sort_values("x").reset_index(drop=True)
        last = np.flatnonzero(np.diff(line["mean"] > high))  # before it crosses the upper end
        before, after = line.loc[last], line.loc[last + 1].set_index(last)
        share = (before["mean"] - high) / (before["mean"] - after["mean"])
        columns = ["x", "mean", "low", "high"]
        crossing = before[columns] + after[columns].sub(before[columns]).mul(share, axis=0)
        if on_log:
            crossing["x"] = before["x"] * (after["x"] / before["x"]) ** share
        crossing = before.assign(**crossing, size=0)
        line[columns[1:]] = line[columns[1:]].where(line["mean"] <= high)
        drawn.append(pd.concat([line, crossing]).sort_values("x", kind="stable"))
    cut = pd.concat(drawn)
    cut[["low", "high"]] = cut[["low", "high"]].clip(low, high)
    return cut


def _never_below(curves: pd.DataFrame, top: float | None) -> pd.Index:
    """The settings with no mean in sight: their bands would only cover the others."""
    lowest = curves.groupby(["setting", "step"])[CURVE].mean().groupby("setting").min()
    return lowest.index[lowest > (np.inf if top is None else top)]
