"""A scaling law: loss by compute and by size, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lmlab.sweeps.compare.law import OPERATIONS, Law
from lmlab.sweeps.compare.scaling import BEYOND, FORMULA, LEVEL, ONE_BUDGET, Scaling
from lmlab.sweeps.figures.charts import (
    FILL,
    INK,
    STAR_SHAPE,
    Chart,
    Lines,
    data,
    loss_axis,
    titled,
    with_unit,
)
from lmlab.sweeps.figures.scales import WHOLE_POWERS, ratio_axis, styles_of
from lmlab.sweeps.table.words import amount, power

WIDTH, HEIGHT = 580, 380


def by_compute(scaling: Scaling) -> Chart:
    """The loss of each size by compute, and the frontier with its band, a decade further."""
    points, law = scaling.points, scaling.law
    low, high = points["compute"].min(), BEYOND * points["compute"].max()
    sizes = sorted(points["parameters"].unique())
    points = points.assign(line=points["parameters"].map({n: i for i, n in enumerate(sizes)}))
    curves = []
    for line, size in enumerate(sizes):
        of_size = points["compute"][points["line"] == line]
        compute = np.geomspace(of_size.min() / 1.6, of_size.max() * 1.6, 60)
        loss = law.loss(size, compute / (OPERATIONS * size))
        curves.append(pd.DataFrame({"line": line, "at": compute, "loss": loss}))
    compute = np.geomspace(low, high, 120)
    drawn = np.stack([draw.best_loss(compute) for draw in scaling.draws])
    least, most = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    band = pd.DataFrame({"at": compute, "least": least, "most": most})
    band["best"] = law.best_loss(compute)
    place = ratio_axis(low, high, "operations, 6 N D", WHOLE_POWERS)
    bottom = float(np.nanmin([*least, points["loss"].min()]))
    axis = _axis(scaling, bottom)
    at, frontier = alt.X("at", **place), alt.Chart(data(_seen(band, axis)))
    layers = [
        frontier.mark_area(color=INK, opacity=0.13).encode(at, alt.Y("least", **axis), y2="most"),
        frontier.mark_line(color=INK, strokeWidth=1.6, strokeDash=[6, 4]).encode(
            at, alt.Y("best", **axis)
        ),
    ]
    lines = Lines(list(map(amount, sizes)), styles_of(sizes), "parameters N")
    layers += _measured(points.assign(at=points["compute"]), pd.concat(curves), lines, place, axis)
    return _titled(scaling, layers, "compute", "dashed: the best size, 95 %")


def by_size(scaling: Scaling) -> Chart:
    """The loss of each budget by size: where it is spent best, with the interval."""
    points, law, budgets = scaling.points, scaling.law, scaling.budgets
    curves, measured, stars = [], [], []
    for line, budget in enumerate(budgets):
        near = (points["compute"] / budget).between(1 / ONE_BUDGET, ONE_BUDGET)
        of_budget = points[near].assign(line=line, at=points["parameters"])
        measured.append(of_budget)
        best = scaling.at(budget, Law.best_parameters)
        low, high = of_budget["at"].min() / 1.3, of_budget["at"].max() * 1.3
        sizes = np.geomspace(np.fmin(low, best.value / 1.3), np.fmax(high, best.value * 1.3), 60)
        loss = law.loss(sizes, budget / (OPERATIONS * sizes))
        curves.append(pd.DataFrame({"line": line, "at": sizes, "loss": loss}))
        stars.append({"line": line, "loss": float(law.best_loss(budget)), **vars(best)})
    drawn = pd.concat(curves)
    place = ratio_axis(
        drawn["at"].min(), drawn["at"].max(), "parameters N, without embeddings and read-out"
    )
    axis = _axis(scaling, min(drawn["loss"].min(), points["loss"].min()))
    lines = Lines(list(map(power, budgets)), styles_of(budgets), "operations")
    layers = _measured(pd.concat(measured), drawn, lines, place, axis)
    known = pd.DataFrame(stars).dropna(subset="value")
    best_sizes = alt.Chart(data(known.assign(fill=lines.marks(known["line"])["fill"])))
    best_sizes = best_sizes.encode(alt.Y("loss", **axis))
    star = best_sizes.mark_point(shape=STAR_SHAPE, size=170, filled=True, opacity=1, stroke=INK)
    layers += [
        best_sizes.mark_rule(color=INK, strokeWidth=1.6).encode(alt.X("low", **place), x2="high"),
        star.encode(alt.X("value", **place), FILL),
    ]
    return _titled(scaling, layers, "size", "star: where it is spent best, 95 %")


def _axis(scaling: Scaling, bottom: float) -> dict[str, Any]:
    """Of losses: what was measured, and the law below it."""
    margin = 0.08 * np.ptp(scaling.points["loss"])
    top = scaling.points["loss"].max() + margin
    return loss_axis(with_unit(scaling.metric), bottom - margin / 2, top)


def _seen(frame: pd.DataFrame, axis: dict[str, Any]) -> pd.DataFrame:
    """What lies below the upper end of an axis: clipped marks would take a renderer seconds."""
    losses = frame.columns.intersection(["loss", "least", "most", "best"])
    top = axis["scale"]["domain"][1]
    return frame.assign(**frame[losses].where(frame[losses] <= top))


def _measured(
    points: pd.DataFrame,
    curves: pd.DataFrame,
    lines: Lines,
    place: dict[str, Any],
    axis: dict[str, Any],
) -> list[alt.Chart]:
    """The law's curves, and points with their spread, filled where the text was read once."""
    points = points.assign(
        low=points["loss"] - points["sd"].fillna(0),
        high=points["loss"] + points["sd"].fillna(0),
        N=points["parameters"].map(amount),
        D=points["tokens"].map(amount),
        fill=lines.marks(points["line"])["fill"].mask(points["passes"] > 1, "white"),
    )
    at = alt.X("at", **place)
    base = alt.Chart(data(points)).encode(at, color=lines.colour())
    told = ["N:N", "D:N", alt.Tooltip("loss:Q", format=".4f"), alt.Tooltip("n:Q", title="seeds")]
    point = base.mark_point(size=60, strokeWidth=2, opacity=1)
    curve = alt.Chart(data(_seen(curves, axis))).mark_line(strokeWidth=1.4)
    return [
        curve.encode(at, alt.Y("loss", **axis), color=lines.colour()),
        base.mark_errorbar(ticks={"size": 7}).encode(alt.Y("low", **axis), y2="high"),
        point.encode(alt.Y("loss", **axis), FILL, tooltip=told),
    ]


def _titled(scaling: Scaling, layers: Sequence[alt.Chart], by: str, drawn: str) -> Chart:
    law = scaling.law
    if (scaling.points["passes"] > 1).any():
        drawn += "; hollow: text read again"
    below = f"{FORMULA}: E {law.E:.3g}, alpha {law.alpha:.2f}, beta {law.beta:.2f}"
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    return titled(chart, f"{scaling.metric} by {by}", below, drawn)
