"""Final losses: by each key, by two keys, by seed, by the number of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lmlab.sweeps.figures.charts import (
    HEIGHT,
    INK,
    LOST,
    PALE,
    WIDTH,
    Chart,
    Lines,
    data,
    loss_axis,
    point_layers,
    titled,
    what_a_point_is,
    with_unit,
)
from lmlab.sweeps.figures.scales import (
    COLOURS,
    GREY,
    MOST_DRAWN,
    Style,
    has_a_place,
    number_axis,
    places,
    ratio_axis,
    styles_of,
    styles_of_settings,
    word_axis,
)
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
ALONE = Lines([], [Style(COLOURS[0])])


def points_of(table: Table, settings: pd.DataFrame) -> pd.DataFrame:
    """What is drawn of some settings, for `point_layers`, but for their places and lines.

    A loss off the scale is lost: no axis shows it beside the others.
    """
    loss, deviation = settings[table.metric], table.deviation[settings.index]
    top = ceiling(loss)
    has_ended = table.runs["status"].isin(("done", "failed", "killed"))
    has_ended = has_ended.groupby(table.runs["setting"]).any()[settings.index]
    is_drawn = np.isfinite(loss) & (loss <= top)
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
    loss = loss_axis(with_unit(table.metric))
    if across := all(map(has_a_place, values)):
        points["at"] = settings[key].astype("float64")
        place, height, edge = number_axis(list(map(float, values)), heading(key)), HEIGHT, HEIGHT
    else:
        points["at"] = places(settings[key])
        place = word_axis([label(key, value) for value in values], heading(key))
        height, edge = ROW * max(3, len(values)), WIDTH
    points, lines, joined = _in_lines(table, settings, key, points)
    layers = point_layers(points, place, loss, lines, across, joined if across else (), edge)
    below = what_a_point_is(settings), LOST * bool(points["is_lost"].any())
    chart = alt.layer(*layers).properties(width=WIDTH, height=height)
    return titled(chart, f"{table.metric} by {heading(key)}", "; ".join(filter(None, below)))


def _in_lines(
    table: Table, settings: pd.DataFrame, key: str, points: pd.DataFrame
) -> tuple[pd.DataFrame, Lines, Sequence[int]]:
    """The points with their lines, what these are, and which are joined."""
    others = [other for other in table.keys if other != key]
    if not others and len(settings) <= MOST_DRAWN and not all(map(is_number, settings[key])):
        styles = styles_of_settings(table)
        return (
            points.assign(line=range(len(points))),
            Lines([], [styles[i] for i in points.index]),
            [],
        )
    if not others:
        return points.assign(line=0), ALONE, [0]
    values = ordered(settings[others[0]])
    if len(others) == 1 and len(values) <= MOST_LINES:
        names = [label(others[0], value) for value in values]
        lines = Lines(names, styles_of(values), heading(others[0]))
        at = {canonical(value): i for i, value in enumerate(values)}
        line = settings[others[0]].map(canonical).map(at)
        return points.assign(line=line)[line.notna()], lines, range(len(values))
    best = ~settings[key].map(canonical).duplicated()
    if best.sum() > len(settings) / 2:  # a search that hardly meets a value twice
        return points.assign(line=0), ALONE, []
    every = points.assign(line=1, is_best=False)
    lines = Lines(
        ["the best at each value", "every setting"], [ALONE.styles[0], Style(GREY, size=16)]
    )
    return pd.concat([every, points[best].assign(line=0)]), lines, [0]


def by_seed(table: Table) -> Chart:
    """The loss of each seed of one setting, beside their mean and deviation."""
    runs = table.runs[table.runs["counted"] | table.runs["diverged"]]
    runs = runs.loc[places(runs["seed"]).sort_values().index]
    mean, deviation = table.loss[1], table.deviation[1]
    loss = runs[table.metric].mask(runs["diverged"])
    is_drawn = loss <= ceiling(loss)
    points = pd.DataFrame({"at": range(len(runs)), "loss": loss.where(is_drawn), "sd": np.nan})
    points = points.assign(line=0, is_lost=~is_drawn, is_best=False, best="")
    points["setting"] = [f"seed {seed}" for seed in runs["seed"]]
    place = word_axis([label("seed", seed) for seed in runs["seed"]], "seed", labelAngle=0)
    axis = loss_axis(with_unit(table.metric))
    layers = point_layers(points, place, axis, Lines([], [Style(COLOURS[1])]))
    if is_drawn.all():
        base = alt.Chart(data(pd.DataFrame({"mean": [mean]}).assign(
            low=mean - deviation, high=mean + deviation)))  # fmt: skip
        band = base.mark_rect(color=COLOURS[0], opacity=0.15)
        rule = base.mark_rule(color=COLOURS[0], strokeWidth=2)
        layers = [
            band.encode(y=alt.Y("low", **axis), y2="high"),
            rule.encode(y=alt.Y("mean", **axis)),
            *layers,
        ]
    lost = table.settings["status"][1] if table.settings["diverged"][1] else ""
    below = [lost or figure(mean, deviation)] + [LOST] * bool(points["is_lost"].any())
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    return titled(chart, f"{table.metric} by seed", "; ".join(below))


def heat_map(table: Table) -> Chart:
    """The loss over two keys: a number in each cell, grey where there is none."""
    down, across = sorted(table.keys, key=lambda key: all(map(is_number, table.settings[key])))
    settings, loss = table.settings, table.loss.where(np.isfinite)
    top = min(ceiling(loss), loss.max())
    cells = points_of(table, settings).assign(
        x=places(settings[across]), y=places(settings[down]), loss=loss
    )
    failed = cells["is_lost"] & loss.isna()
    written = loss.map(lambda x: f"{x:.3f}" if abs(x) < 1e3 else f"{x:.2g}")
    cells["text"] = written.where(loss.notna(), failed.map({True: "failed", False: ""}))
    cells["ink"] = (loss < (loss.min() + top) / 2).map({True: "white", False: INK})
    columns = [label(across, value, 14) for value in ordered(settings[across])]
    rows = [label(down, value) for value in ordered(settings[down])]
    place: dict[str, Any] = {
        "x": alt.X("x", **word_axis(columns, heading(across), 0, labelAngle=0, domain=False)),
        "y": alt.Y("y", **word_axis(rows, heading(down), 0, domain=False)),
    }
    base = alt.Chart(data(cells)).encode(**place)
    everywhere = pd.DataFrame([(x, y) for x in range(len(columns)) for y in range(len(rows))])
    empty = alt.Chart(data(everywhere.set_axis(["x", "y"], axis=1))).encode(**place)
    there = base.transform_filter("isValid(datum.loss)")
    colour = alt.Color(
        "loss:Q",
        title=with_unit(table.metric),
        scale=alt.Scale(scheme="viridis", domain=[loss.min(), top], clamp=True),
        legend=alt.Legend(titleOrient="right", titleLimit=300, gradientLength=140),
    )
    told = [alt.Tooltip("setting:N"), alt.Tooltip("loss:Q", format=".4f")]
    text = base.mark_text(fontSize=13 if len(columns) <= 10 else 10)
    best = there.transform_filter("datum.is_best")
    layers = [
        empty.mark_rect(color="#dddddd"),
        there.mark_rect().encode(color=colour, tooltip=told),
        text.transform_filter("isValid(datum.loss)").encode(
            text="text:N", color=alt.Color("ink:N", scale=None)
        ),
        text.transform_filter("!isValid(datum.loss)").encode(text="text:N", color=alt.value(PALE)),
        best.mark_rect(filled=False, stroke=COLOURS[1], strokeWidth=4),
    ]
    size = {"width": 70 * max(3, len(columns)), "height": 40 * max(2, len(rows))}
    chart = alt.layer(*layers).resolve_scale(color="independent").properties(**size)
    title = f"{table.metric} by {heading(down)} and {heading(across)}"
    return titled(chart, title, what_a_point_is(settings))


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
    points = points_of(table, settings).assign(at=settings["parameters"], line=0)
    lines = ALONE
    if len(settings) <= MOST_DRAWN:
        styles = styles_of_settings(table)
        names = setting_names(settings, table.keys)
        lines = Lines(
            names, [styles[i] for i in settings.index], ", ".join(map(heading, table.keys))
        )
        points["line"] = range(len(points))
    place = ratio_axis(points["at"].min(), points["at"].max(), "parameters")
    loss = loss_axis(with_unit(table.metric))
    lowest = points["loss"].cummin().shift(fill_value=np.inf)
    frontier = alt.Chart(data(points[points["loss"] < lowest])).mark_line(
        color=GREY, strokeWidth=1.2, strokeDash=[6, 4]
    )
    frontier = frontier.encode(alt.X("at", **place), alt.Y("loss", **loss))
    chart = alt.layer(frontier, *point_layers(points, place, loss, lines))
    tokens = settings["tokens"].unique()
    at = f"; each trained on {tokens[0]:,.0f} tokens" if len(tokens) == 1 and tokens[0] > 0 else ""
    below = [what_a_point_is(settings) + at, "dashed: the best up to a size"]
    if points["is_lost"].any():
        below[1] += f"; {LOST}"
    chart = chart.properties(width=WIDTH, height=HEIGHT)
    return titled(chart, f"{table.metric} by parameters", *below)
