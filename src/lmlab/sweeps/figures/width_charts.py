"""A sweep over widths: does a learning rate transfer, do activations keep their size?

Each parametrisation, or whatever else differs, has axes of its own, side by side.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from lmlab.sweeps.compare.widths import ACTIVATIONS, RATE, WIDTH, best_rates
from lmlab.sweeps.figures.charts import (
    FILL,
    INK,
    STAR_SHAPE,
    Chart,
    Lines,
    data,
    loss_axis,
    point_layers,
    titled,
    what_a_point_is,
    with_unit,
)
from lmlab.sweeps.figures.losses import points_of
from lmlab.sweeps.figures.scales import number_axis, styles_of
from lmlab.sweeps.table.settings import Table
from lmlab.sweeps.table.values import heading, label, ordered

PANEL, HIGH = 330, 290
MOST_STEPS = 7  # that have a line


def by_rate(table: Table, panels: dict[str, pd.DataFrame]) -> Chart:
    """The loss by learning rate, a line for each width, the best rate of each starred."""
    widths = ordered(table.settings[WIDTH])
    lines = Lines([label(WIDTH, width) for width in widths], styles_of(widths), heading(WIDTH))
    place = number_axis(list(map(float, ordered(table.settings[RATE]))), heading(RATE))
    line = {width: i for i, width in enumerate(widths)}
    charts: list[Any] = []
    for title, settings in panels.items():
        loss = loss_axis(with_unit(table.metric) if not charts else "")
        points = points_of(table, settings).assign(
            at=settings[RATE].astype(float),
            line=settings[WIDTH].map(line),
            is_lost=False,
            is_best=False,
        )
        best = points.loc[points.dropna(subset="loss").groupby("line")["loss"].idxmin()]
        star = alt.Chart(data(best.assign(**lines.marks(best["line"])))).mark_point(
            shape=STAR_SHAPE, size=190, filled=True, opacity=1, stroke=INK, strokeWidth=1.2
        )
        stars = star.encode(alt.X("at", **place), alt.Y("loss", **loss), FILL)
        layers = point_layers(points, place, loss, lines, joined=range(len(widths)))
        about = alt.Title(title, subtitle=_drift(table, settings), fontSize=14)
        charts.append(alt.layer(*layers, stars).properties(width=PANEL, height=HIGH, title=about))
    chart = alt.hconcat(*charts).resolve_scale(y="shared")
    return titled(chart, f"{table.metric} by {heading(RATE)}", what_a_point_is(table.settings))


def _drift(table: Table, settings: pd.DataFrame) -> str:
    """How far the best rate moves from the smallest width to the largest."""
    best = best_rates(table, settings)
    if len(best) < 2:
        return ""
    narrow, wide = best.iloc[0], best.iloc[-1]
    return f"best rate: {narrow:g} at width {best.index[0]:g}, {wide:g} at {best.index[-1]:g}"


def by_width(table: Table, panels: dict[str, pd.DataFrame], sizes: pd.DataFrame) -> Chart:
    """Mean absolute activations by width, a line for each step: flat, or growing."""
    widths = table.settings[WIDTH].astype(float)
    steps = sorted(map(int, sizes["step"].unique()))[:MOST_STEPS]
    lines = Lines(list(map(str, steps)), styles_of(steps), "after step")
    sizes = sizes.assign(width=sizes["setting"].map(widths))
    tags = [column for column in sizes if str(column).startswith(ACTIVATIONS)]
    rows = []
    for tag in tags:
        charts: list[Any] = []
        for title, settings in panels.items():
            ours = sizes[sizes["setting"].isin(settings.index) & sizes["step"].isin(steps)]
            means = ours.groupby(["step", "width"])[tag].mean().dropna().rename("size")
            means = means.reset_index()
            means["line"] = means["step"].map({step: i for i, step in enumerate(steps)})
            is_last = tag == tags[-1]
            across = number_axis(sorted(set(widths)), heading(WIDTH) if is_last else "")
            y = alt.Y(
                "size:Q",
                title="" if charts else f"mean |{tag.removeprefix(ACTIVATIONS)}|",
                scale=alt.Scale(type="log", nice=False, padding=10),
                axis=alt.Axis(format="~g", tickCount=4),
            )
            base = alt.Chart(data(means)).encode(alt.X("width", **across), y)
            layers = [
                base.mark_line().encode(color=lines.colour()),
                base.mark_point(filled=True, size=30, opacity=1).encode(
                    color=lines.colour(), tooltip=["step:Q", "width:Q", "size:Q"]
                ),
            ]
            size = {"width": PANEL, "height": HIGH * 2 // 3}
            about = {"title": alt.Title(title, fontSize=14)} if tag == tags[0] and title else {}
            charts.append(alt.layer(*layers).properties(**size, **about))
        rows.append(alt.hconcat(*charts).resolve_scale(y="shared"))
    below = "mean absolute values, averaged over seeds"
    return titled(alt.vconcat(*rows), "activations by width", below)
