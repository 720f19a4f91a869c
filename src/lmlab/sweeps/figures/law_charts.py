"""A scaling law: loss by compute and by size, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lmlab.sweeps.compare.law import OPERATIONS, Law
from lmlab.sweeps.compare.scaling import BEYOND, FORMULA, LEVEL, ONE_BUDGET, Scaling
from lmlab.sweeps.figures import charts, scales
from lmlab.sweeps.figures.charts import INK, Chart, Lines
from lmlab.sweeps.figures.scales import Axis
from lmlab.sweeps.table.words import amount, power


def by_compute(scaling: Scaling) -> Chart:
    """The loss of each size by compute, and the frontier with its band, a decade further."""
    points, law = scaling.points, scaling.law
    sizes = sorted(points["parameters"].unique())
    points = points.assign(line=points["parameters"].map(sizes.index), at=points["compute"])
    curves = []
    for line, size in enumerate(sizes):
        of_size = points["at"][points["line"] == line]
        compute = np.geomspace(of_size.min() / 1.6, of_size.max() * 1.6, 60)
        loss = law.loss(size, compute / (OPERATIONS * size))
        curves.append(pd.DataFrame({"line": line, "at": compute, "loss": loss}))
    low, high = points["at"].min(), BEYOND * points["at"].max()
    compute = np.geomspace(low, high, 120)
    drawn = np.stack([draw.best_loss(compute) for draw in scaling.draws])
    least, most = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    band = {"at": compute, "least": least, "most": most, "best": law.best_loss(compute)}
    place = scales.ratio_axis(low, high, "operations, 6 N D", written="~e")
    axis = _axis(scaling, least)
    frontier = alt.Chart(_seen(pd.DataFrame(band), axis)).encode(alt.X("at", **place))
    best = frontier.mark_line(color=INK, strokeWidth=1.6, strokeDash=[6, 4])
    layers = [
        frontier.mark_area(color=INK, opacity=0.13).encode(alt.Y("least", **axis), alt.Y2("most")),
        best.encode(alt.Y("best", **axis)),
    ]
    lines = Lines(list(map(amount, sizes)), scales.styles_of(sizes), "parameters N")
    layers += _measured(points, pd.concat(curves), lines, place, axis)
    return _titled(scaling, layers, "compute", "dashed: the best size, 95 %")


def by_size(scaling: Scaling) -> Chart:
    """The loss of each budget by size: where it is spent best, with the interval."""
    law, budgets = scaling.law, scaling.budgets
    lines = Lines(list(map(power, budgets)), scales.styles_of(budgets), "operations")
    measured, curves, stars = [], [], []
    for line, budget in enumerate(budgets):
        near = (scaling.points["compute"] / budget).between(1 / ONE_BUDGET, ONE_BUDGET)
        points = scaling.points[near].assign(line=line, at=scaling.points["parameters"])
        best = scaling.at(budget, Law.best_parameters)
        low, high = points["at"].min() / 1.3, points["at"].max() * 1.3
        sizes = np.geomspace(np.fmin(low, best.value / 1.3), np.fmax(high, best.value * 1.3), 60)
        loss = law.loss(sizes, budget / (OPERATIONS * sizes))
        measured.append(points)
        curves.append(pd.DataFrame({"line": line, "at": sizes, "loss": loss}))
        stars.append({"line": line, "loss": float(law.best_loss(budget)), **vars(best)})
    drawn = pd.concat(curves)
    inside = "parameters N, without embeddings and read-out"
    place = scales.ratio_axis(drawn["at"].min(), drawn["at"].max(), inside)
    axis = _axis(scaling, drawn["loss"])
    known = lines.marked(pd.DataFrame(stars).dropna(subset="value"))
    spent_best = alt.Chart(charts.data(known)).encode(alt.Y("loss", **axis))
    star = spent_best.mark_point(shape=charts.STAR, size=170, stroke=INK, strokeWidth=1.2)
    layers = [
        *_measured(pd.concat(measured), drawn, lines, place, axis),
        spent_best.mark_rule(color=INK, strokeWidth=1.6).encode(
            alt.X("low", **place), alt.X2("high")
        ),
        star.encode(alt.X("value", **place), charts.FILL),
    ]
    return _titled(scaling, layers, "size", "star: where it is spent best, 95 %")


def _axis(scaling: Scaling, lowest: Any) -> Axis:
    """Of losses: what was measured, and the law below it."""
    measured, margin = scaling.points["loss"], 0.08 * np.ptp(scaling.points["loss"])
    low = float(np.nanmin([*lowest, measured.min()])) - margin / 2
    return scales.loss_axis(charts.with_unit(scaling.metric), low, measured.max() + margin)


def _seen(frame: pd.DataFrame, axis: Axis) -> alt.InlineData:
    """What lies below the upper end of an axis: clipped marks would take a renderer seconds."""
    losses = frame[frame.columns.intersection(["loss", "least", "most", "best"])]
    return charts.data(frame.assign(**losses.where(losses <= axis["scale"]["domain"][1])))


def _measured(
    points: pd.DataFrame, curves: pd.DataFrame, lines: Lines, place: Axis, axis: Axis
) -> list[Any]:
    """The law's curves, and points with their spread, filled where the text was read once."""
    names = points["parameters"].map(amount) + " parameters, " + points["tokens"].map(amount)
    points = points.assign(setting=names + " tokens", is_lost=False, is_best=False, best="")
    filled = lines.marked(points)["fill"].mask(points["passes"] > 1, "white")
    curve = alt.Chart(_seen(curves, axis)).mark_line(strokeWidth=1.4)
    return [
        curve.encode(alt.X("at", **place), alt.Y("loss", **axis), lines.colour()),
        charts.points_chart(points.assign(fill=filled), place, axis, lines),
    ]


def _titled(scaling: Scaling, layers: Sequence[Any], by: str, drawn: str) -> Chart:
    law = scaling.law
    if (scaling.points["passes"] > 1).any():
        drawn += "; hollow: text read again"
    below = f"{FORMULA}: E {law.E:.3g}, alpha {law.alpha:.2f}, beta {law.beta:.2f}"
    chart = charts.sized(layers, 580, 380)
    return charts.titled(chart, f"{scaling.metric} by {by}", below, drawn)
