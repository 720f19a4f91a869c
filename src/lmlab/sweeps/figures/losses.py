"""Final losses: by each key, by two keys, by seed, by the number of parameters."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lmlab.sweeps.figures import charts, scales
from lmlab.sweeps.figures.charts import Chart, Lines
from lmlab.sweeps.figures.scales import COLOURS, GREY, MOST_DRAWN, OF_VALUES, Style, places
from lmlab.sweeps.table.settings import Table
from lmlab.sweeps.table.values import (
    canonical,
    ceiling,
    heading,
    is_missing,
    is_number,
    label,
    ordered,
)
from lmlab.sweeps.table.words import figure, setting_names

MOST_LINES = 10
MOST_CELLS = 16  # along a side of a heat map
ROW = 32  # pixels of a row of words
ALONE = Lines([], [Style(OF_VALUES[0])])


def points_of(table: Table, settings: pd.DataFrame) -> pd.DataFrame:
    """What is drawn of some settings, for `points_chart`, but for their places and lines.

    A loss off the scale is lost: no axis shows it beside the others.
    """
    loss, deviation = settings[table.metric], table.deviation[settings.index]
    has_ended = table.runs["status"].isin(("done", "failed", "killed"))
    has_ended = has_ended.groupby(table.runs["setting"]).any()[settings.index]
    is_drawn = np.isfinite(loss) & (loss <= ceiling(loss))
    return pd.DataFrame(
        {
            "setting": setting_names(settings, table.keys),
            "loss": loss.where(is_drawn),
            "sd": deviation,
            "is_lost": has_ended & ~is_drawn,
            "is_best": settings.index == table.best,
            "best": [f"best {figure(*row)}" for row in zip(loss, deviation, strict=True)],
        }
    )


def by_key(table: Table, key: str) -> Chart:
    """The loss against one key: a line for each value of the other key, if there is one other.

    With several others every setting is a point, and a line joins the best at each value. Values
    that are not numbers go down the page, the best on top.
    """
    settings = table.settings[~table.settings[key].map(is_missing)]
    values = ordered(settings[key])
    points = points_of(table, settings)
    loss = scales.loss_axis(charts.with_unit(table.metric))
    if across := all(map(scales.has_a_place, values)):
        points["at"] = settings[key].astype("float64")
        place = scales.number_axis(list(map(float, values)), heading(key))
    else:
        points["at"] = places(settings[key])
        place = scales.word_axis([label(key, value) for value in values], heading(key))
    points, lines, joined = _in_lines(table, settings, key, points)
    chart = charts.points_chart(
        points,
        place,
        loss,
        lines,
        across,
        joined if across else [],
        charts.HEIGHT if across else charts.WIDTH,
    )
    if across and len(lines.styles) == len(points) and not joined:  # one key: a line through all
        through = alt.Chart(charts.data(points.dropna(subset="loss")))
        through = through.mark_line(color=GREY, strokeWidth=1.2)
        through = through.encode(alt.X("at", **place), alt.Y("loss", **loss))
        chart = alt.layer(through, chart)
    height = charts.HEIGHT if across else ROW * max(3, len(values))
    below = charts.joined(charts.what_a_point_is(settings), charts.lost_note(points))
    title = f"{table.metric} by {heading(key)}"
    return charts.titled(charts.sized([chart], height=height), title, below)


def _in_lines(
    table: Table, settings: pd.DataFrame, key: str, points: pd.DataFrame
) -> tuple[pd.DataFrame, Lines, list[int]]:
    """The points with their lines, what these are, and which are joined."""
    others = [other for other in table.keys if other != key]
    if not others and len(settings) <= MOST_DRAWN:  # each in its own colour
        styles = scales.styles_of_settings(table)
        lines = Lines([], [styles[setting] for setting in points.index])
        return points.assign(line=range(len(points))), lines, []
    if not others:
        return points.assign(line=0), ALONE, [0]
    values = ordered(settings[others[0]])
    if len(others) == 1 and len(values) <= MOST_LINES:
        names = [label(others[0], value) for value in values]
        lines = Lines(names, scales.styles_of(values), heading(others[0]))
        line = places(settings[others[0]])
        there = line.notna()
        return points[there].assign(line=line[there].astype(int)), lines, list(range(len(values)))
    best = ~settings[key].map(canonical).duplicated()
    if best.sum() > len(settings) / 2:  # a search that hardly meets a value twice
        return points.assign(line=0), ALONE, []
    every = points.assign(line=1, is_best=False)
    names = ["the best at each value", "every setting"]
    lines = Lines(names, [ALONE.styles[0], Style(GREY, size=16)])
    return pd.concat([every, points[best].assign(line=0)]), lines, [0]


def by_seed(table: Table) -> Chart:
    """The loss of each seed of one setting, beside their mean and deviation."""
    runs = table.runs[table.runs["counted"] | table.runs["diverged"]]
    runs = runs.loc[places(runs["seed"]).sort_values().index]
    mean, deviation = table.loss[1], table.deviation[1]
    loss = runs[table.metric].mask(runs["diverged"])
    is_drawn = loss <= ceiling(loss)
    points = pd.DataFrame({"loss": loss.where(is_drawn), "is_lost": ~is_drawn})
    points["setting"] = [f"seed {seed}" for seed in runs["seed"]]
    points = points.assign(at=range(len(runs)), sd=np.nan, line=0, is_best=False)
    seeds = scales.word_axis([label("seed", seed) for seed in runs["seed"]], "seed", labelAngle=0)
    axis = scales.loss_axis(charts.with_unit(table.metric))
    layers: list[Any] = [charts.points_chart(points, seeds, axis, Lines([], [Style(COLOURS[1])]))]
    if is_drawn.all():
        row = {"mean": mean, "low": mean - deviation, "high": mean + deviation}
        base = alt.Chart(charts.data(pd.DataFrame([row])))
        band = base.mark_rect(color=COLOURS[0], opacity=0.15)
        rule = base.mark_rule(color=COLOURS[0], strokeWidth=2)
        layers.insert(0, band.encode(alt.Y("low", **axis), alt.Y2("high")))
        layers.insert(1, rule.encode(alt.Y("mean", **axis)))
    lost = table.settings["status"][1] if table.settings["diverged"][1] else ""
    below = charts.joined(lost or figure(mean, deviation), charts.lost_note(points))
    return charts.titled(charts.sized(layers), f"{table.metric} by seed", below)


def heat_map(table: Table) -> Chart:
    """The loss over two keys: a number in each cell, grey where there is none."""
    down, across = sorted(table.keys, key=lambda key: all(map(is_number, table.settings[key])))
    settings, loss = table.settings, table.loss.where(np.isfinite)
    top = min(ceiling(loss), loss.max())
    failed = points_of(table, settings)["is_lost"] & loss.isna()
    written = loss.map(lambda x: f"{x:.3f}" if abs(x) < 1e3 else f"{x:.2g}")
    cells = pd.DataFrame(
        {
            "x": places(settings[across]),
            "y": places(settings[down]),
            "loss": loss,
            "text": written.where(loss.notna(), failed.map({True: "failed", False: ""})),
            "ink": (loss < (loss.min() + top) / 2).map({True: "white", False: charts.INK}),
            "is_best": settings.index == table.best,
        }
    )
    columns = [label(across, value, 14) for value in ordered(settings[across])]
    rows = [label(down, value) for value in ordered(settings[down])]
    colour = alt.Color(
        "loss:Q",
        title=charts.with_unit(table.metric),
        scale=alt.Scale(scheme="viridis", domain=[loss.min(), top], clamp=True),
        legend=alt.Legend(titleOrient="right", titleLimit=300, gradientLength=140),
    )
    base = alt.Chart().encode(
        alt.X("x", **scales.word_axis(columns, heading(across), 0, labelAngle=0, domain=False)),
        alt.Y("y", **scales.word_axis(rows, heading(down), 0, domain=False)),
    )
    there = base.transform_filter("isValid(datum.loss)")
    text = base.mark_text(fontSize=13 if len(columns) <= 10 else 10)
    best = there.transform_filter("datum.is_best").mark_rect(filled=False, strokeWidth=4)
    layers = [
        there.mark_rect().encode(colour),
        text.encode(alt.Text("text:N"), alt.Color("ink:N", scale=None)),
        best.encode(alt.StrokeValue(COLOURS[1])),
    ]
    chart = charts.sized(layers, 70 * max(3, len(columns)), 40 * max(2, len(rows)))
    chart = chart.properties(data=charts.data(cells), view={"fill": "#dddddd"})
    title = f"{table.metric} by {heading(down)} and {heading(across)}"
    return charts.titled(
        chart.resolve_scale(color="independent"), title, charts.what_a_point_is(settings)
    )


def is_grid(table: Table) -> bool:
    """Two keys, with cells enough to be worth a map and not too many to be read."""
    if len(table.keys) != 2 or table.best is None:
        return False
    sides = [len(ordered(table.settings[key])) for key in table.keys]
    has_both = ~table.settings[table.keys].map(is_missing)
    is_worth_it = min(sides) > 1 and len(table.settings) > max(sides)
    return is_worth_it and max(sides) <= MOST_CELLS and bool(has_both.all(axis=None))


def by_parameters(table: Table) -> Chart:
    """The loss against the number of parameters, on a log axis: a colour for each setting."""
    # A model of none, such as the n-gram's counts, has no place on the axis.
    settings = table.settings[table.settings["parameters"] > 0]
    settings = settings.sort_values("parameters", kind="stable")
    points, lines = points_of(table, settings).assign(at=settings["parameters"], line=0), ALONE
    if len(settings) <= MOST_DRAWN:
        styles, keys = scales.styles_of_settings(table), ", ".join(map(heading, table.keys))
        lines = Lines(points["setting"], [styles[setting] for setting in settings.index], keys)
        points["line"] = range(len(points))
    place = scales.ratio_axis(points["at"].min(), points["at"].max(), "parameters")
    loss = scales.loss_axis(charts.with_unit(table.metric))
    lowest = points["loss"].cummin().shift(fill_value=np.inf)
    frontier = alt.Chart(charts.data(points[points["loss"] < lowest]))
    frontier = frontier.mark_line(color=GREY, strokeWidth=1.2, strokeDash=[6, 4])
    frontier = frontier.encode(alt.X("at", **place), alt.Y("loss", **loss))
    chart = charts.sized([frontier, charts.points_chart(points, place, loss, lines)])
    tokens = settings["tokens"].unique()
    at = f"; each trained on {tokens[0]:,.0f} tokens" if len(tokens) == 1 and tokens[0] > 0 else ""
    below = charts.joined("dashed: the best up to a size", charts.lost_note(points))
    title = f"{table.metric} by parameters"
    return charts.titled(chart, title, charts.what_a_point_is(settings) + at, below)
