"""A sweep over widths: does a learning rate transfer, do activations keep their size?

Each parametrisation, or whatever else differs, has axes of its own, side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from lmlab.sweeps.compare.widths import ACTIVATIONS, RATE, WIDTH, best_rates
from lmlab.sweeps.figures import charts, scales
from lmlab.sweeps.figures.charts import Chart, Lines
from lmlab.sweeps.figures.losses import points_of
from lmlab.sweeps.table.settings import Table
from lmlab.sweeps.table.values import heading, label, ordered

PANEL, HIGH = 330, 290
MOST_STEPS = 7  # that have a line


def by_rate(table: Table, panels: Mapping[str, pd.DataFrame]) -> Chart:
    """The loss by learning rate, a line for each width, the best rate of each starred."""
    widths = ordered(table.settings[WIDTH])
    lines = Lines([label(WIDTH, w) for w in widths], scales.styles_of(widths), heading(WIDTH))
    rates = scales.number_axis(list(map(float, ordered(table.settings[RATE]))), heading(RATE))
    frames, titles = [], []
    for panel, (title, settings) in enumerate(panels.items()):
        points = points_of(table, settings).assign(panel=panel, is_lost=False, best="")
        points = points.assign(
            at=settings[RATE].astype(float), line=settings[WIDTH].map(widths.index)
        )
        best = points.dropna(subset="loss").groupby("line")["loss"].idxmin()
        frames.append(points.assign(is_best=points.index.isin(best)))
        titles.append([title, _drift(table, settings)])
    loss = scales.loss_axis(charts.with_unit(table.metric))
    every = list(range(len(widths)))
    chart: Any = charts.points_chart(pd.concat(frames), rates, loss, lines, as_lines=every)
    chart = chart.properties(width=PANEL, height=HIGH).facet(
        column=alt.Column("panel:N", header=_header(titles))
    )
    title = f"{table.metric} by {heading(RATE)}"
    return charts.titled(chart, title, charts.what_a_point_is(table.settings))


def _header(titles: Sequence[object]) -> Any:
    return alt.Header(labelExpr=scales.by_place(titles))


def _drift(table: Table, settings: pd.DataFrame) -> str:
    """How far the best rate moves from the smallest width to the largest."""
    best = best_rates(table, settings)
    if len(best) < 2:
        return ""
    narrow, wide = best.iloc[0], best.iloc[-1]
    return f"best rate: {narrow:g} at width {best.index[0]:g}, {wide:g} at {best.index[-1]:g}"


def by_width(table: Table, panels: Mapping[str, pd.DataFrame], sizes: pd.DataFrame) -> Chart:
    """Mean absolute activations by width, a line for each step: flat, or growing."""
    widths = table.settings[WIDTH].astype(float)
    steps = sorted(map(int, sizes["step"].unique()))[:MOST_STEPS]
    tags = [column for column in sizes if str(column).startswith(ACTIVATIONS)]
    of_setting = {i: n for n, settings in enumerate(panels.values()) for i in settings.index}
    rows = sizes[sizes["step"].isin(steps) & sizes["setting"].isin(of_setting)]
    rows = rows.melt(["setting", "step"], tags, "tag", "size").dropna()
    rows = rows.assign(
        width=rows["setting"].map(widths),
        panel=rows["setting"].map(of_setting),
        row=rows["tag"].map(tags.index),
        line=rows["step"].map(steps.index),
    )
    means = rows.groupby(["row", "panel", "line", "step", "width"])["size"].mean().reset_index()
    lines = Lines(list(map(str, steps)), scales.styles_of(steps), "after step")
    y = scales.ratio_axis(means["size"].min(), means["size"].max(), "mean absolute value", "~g")
    base = alt.Chart().encode(
        alt.X("width", **scales.number_axis(sorted(set(widths)), heading(WIDTH))),
        alt.Y("size", **y),
        lines.colour(),
        tooltip=["step:Q", "width:Q", "size:Q"],
    )
    layers = [base.mark_line(), base.mark_point(filled=True, size=30)]
    chart = charts.sized(layers, PANEL, HIGH * 2 // 3).properties(data=charts.data(means))
    names = [tag.removeprefix(ACTIVATIONS) for tag in tags]
    chart = chart.facet(
        row=alt.Row("row:N", header=_header(names)),
        column=alt.Column("panel:N", header=_header(list(panels))),
    )
    below = "mean absolute values, averaged over seeds"
    return charts.titled(chart, "activations by width", below)
