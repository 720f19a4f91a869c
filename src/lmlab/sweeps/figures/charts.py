"""What every figure has: its look, titles and legend; points with their spread; how it is written.

A figure is a Vega-Lite chart: data and a description of how they are drawn, which a notebook and a
page show, and which becomes a PNG or an SVG without a browser.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import altair as alt
import pandas as pd
from altair.utils.schemapi import debug_mode

from lmlab.sweeps.figures.scales import Axis, Style, by_place, drawable
from lmlab.sweeps.table.settings import METRICS

Chart = alt.TopLevelMixin  # a layered chart, or several beside each other
WIDTH, HEIGHT = 520, 340  # pixels of the axes; a PNG has twice as many
LOST = "×: failed, or off the scale"
INK, PALE = "#222222", "#666666"
CROSS = "M -1 -1 L 1 1 M -1 1 L 1 -1"
STAR = (
    "M 0 -1 L 0.235 -0.324 L 0.951 -0.309 L 0.38 0.124 L 0.588 0.809 L 0 0.4 "
    "L -0.588 0.809 L -0.38 0.124 L -0.951 -0.309 L -0.235 -0.324 Z"
)
CONFIG: dict[str, Any] = {
    "background": "white",
    "padding": 14,
    "font": "Helvetica Neue, Arial, sans-serif",
    "view": {"stroke": None},
    "title": {"anchor": "start", "fontSize": 17, "subtitleFontSize": 13, "subtitleColor": PALE}
    | {"offset": 14, "subtitlePadding": 5, "frame": "group"},
    "axis": {"labelFontSize": 13, "titleFontSize": 13.5, "titleFontWeight": "normal"}
    | {"gridColor": "#e4e4e4", "domainColor": PALE, "tickColor": PALE, "titlePadding": 9},
    "header": {"labelFontSize": 13, "labelFontWeight": "bold", "labelAnchor": "start"}
    | {"title": None, "labelPadding": 8},
    "legend": {"labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal"}
    | {"labelLimit": 300, "symbolSize": 90, "symbolStrokeWidth": 0, "offset": 22}
    | {"symbolOpacity": 1},
    "line": {"strokeWidth": 2},
    "point": {"opacity": 1, "strokeWidth": 2},
    "text": {"fontSize": 13},
}
FILL, SIZE = alt.Fill("fill:N", scale=None), alt.Size("size:Q", scale=None)
DASH = alt.StrokeDash("dash:N", scale=None)


class Lines(NamedTuple):
    """What is drawn alike, for a legend: the column `line` of a frame counts them from 0."""

    names: Sequence[str]  # empty: no legend
    styles: Sequence[Style]
    title: str | None = None

    def colour(self) -> alt.Color:
        return alt.Color("line:N", **self._about([style.colour for style in self.styles]))

    def shape(self) -> alt.Shape:
        shapes = [style.shape for style in self.styles]
        return alt.Shape("line:N", **self._about(shapes))

    def dashes(self) -> str:
        """Vega's expression for the column `dash` of DASH, which no legend shows."""
        return f"{json.dumps([list(style.dash) or [1, 0] for style in self.styles])}[datum.line]"

    def _about(self, values: Sequence[Any]) -> dict[str, Any]:
        legend = {"title": self.title, "labelExpr": by_place(self.names)}
        scale = {"domain": list(range(len(values))), "range": values}
        return {"scale": scale, "legend": legend if any(self.names) else None}

    def marked(self, points: pd.DataFrame) -> pd.DataFrame:
        """Points with the columns fill, size and dash of their lines."""
        styles = [self.styles[line] for line in points["line"]]
        columns = {"fill": "colour", "size": "size", "dash": "dash"}
        return points.assign(
            **{c: [getattr(s, name) for s in styles] for c, name in columns.items()}
        )


def unchecked() -> AbstractContextManager[None]:
    """While it lasts altair takes what it is given, and does not check each part against
    Vega-Lite's schema, which takes half the time of a figure. (The tests check whole figures.)"""
    return debug_mode(False)


def data(frame: pd.DataFrame) -> alt.InlineData:
    """The rows of a frame with plain columns; what is not finite is nothing."""
    rows = json.loads(frame.to_json(orient="records", double_precision=15))
    return alt.InlineData(values=rows)


def titled(chart: Any, title: str, *below: str) -> Chart:
    """A finished figure: with its title, the lines below it, and the look of all figures."""
    about = alt.Title(title, subtitle=[line for line in below if line])
    return chart.properties(title=about).configure(**CONFIG)


def joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def lost_note(points: pd.DataFrame) -> str:
    return LOST if points["is_lost"].any() else ""


def sized(layers: Sequence[Any], width: int = WIDTH, height: int = HEIGHT) -> Any:
    return alt.layer(*layers).properties(width=width, height=height)


def with_unit(metric: str) -> str:
    """A metric as an axis is labelled: `val/loss_full, nats per token`."""
    return f"{metric}, {METRICS[metric].unit}"


def what_a_point_is(settings: pd.DataFrame) -> str:
    """For the line below a title: over how many seeds. One that diverged leaves no mean."""
    diverged = settings["diverged"] > 0
    n = sorted(set(settings["n"][~diverged]) - {0})
    if not n:
        return "a seed of each diverged" if diverged.any() else "nothing done yet"
    if n[-1] == 1:
        return "one seed each"
    return f"mean ± standard deviation over {f'{n[0]} to ' if len(n) > 1 else ''}{n[-1]} seeds"


def points_chart(
    points: pd.DataFrame,
    place: Axis,
    loss: Axis,
    lines: Lines,
    across: bool = True,
    as_lines: Sequence[int] = (),
    edge: int = HEIGHT,
) -> Any:
    """Means with their spread, some joined `as_lines`; a star at each best, a cross for each lost.

    `points` has the columns line, at (the place), loss, sd, setting (in words), is_lost, is_best
    and best (words beside a star). The place is `across` the page, or else down with the loss
    across. `edge` is how long the axis of the loss is: crosses stand at its far end.
    """
    sd = points["sd"].fillna(0)
    points = points.assign(low=points["loss"] - sd, high=points["loss"] + sd)
    points = lines.marked(points).assign(**points[points.columns.intersection(["fill"])])
    at, of_loss = ("x", "y") if across else ("y", "x")

    def on(column: str, **more: Any) -> dict[str, Any]:
        channel: Any = {"x": alt.X, "y": alt.Y}
        where = {at: channel[at]("at", **place), of_loss: channel[of_loss](column, **loss)}
        return where | more

    base = alt.Chart()
    drawn = base.transform_filter("isValid(datum.loss)")
    best = base.transform_filter("datum.is_best")
    tooltip = [alt.Tooltip("setting:N"), alt.Tooltip("loss:Q", format=".4f")]
    tooltip.append(alt.Tooltip("sd:Q", title="standard deviation", format=".4f"))
    layers: list[Any] = []
    if as_lines:
        line = drawn.transform_filter(alt.FieldOneOfPredicate("line", list(as_lines))).mark_line()
        layers.append(line.encode(lines.colour(), DASH, **on("loss")))
    if points["sd"].gt(0).any():
        error = drawn.transform_filter("datum.sd > 0").mark_errorbar(ticks={"size": 7})
        layers.append(error.encode(lines.colour(), **on("low", **{f"{of_loss}2": "high"})))
    point = drawn.mark_point().encode(
        lines.colour(), lines.shape(), FILL, SIZE, **on("loss"), tooltip=tooltip
    )
    layers.append(point)
    if points["is_lost"].any():
        cross = base.transform_filter("datum.is_lost").mark_point(shape=CROSS, size=60)
        far = alt.value(5 if across else edge - 5)
        layers.append(
            cross.encode(lines.colour(), **on("loss", **{of_loss: far}), tooltip=tooltip[:1])
        )
    if points["is_best"].any():
        star = best.mark_point(shape=STAR, size=200, fill="#F0E442", stroke=INK, strokeWidth=1.2)
        text = best.mark_text(color=INK, dy=16) if across else best.mark_text(
            color=INK, dy=-16, dx=-8, align="left")  # fmt: skip
        layers.append(star.encode(**on("loss"), tooltip=tooltip))
        layers.append(text.encode(**on("low" if across else "loss"), text="best:N"))
    return alt.layer(*layers, data=data(points))


def spec_of(chart: Chart) -> dict[str, Any]:
    """The chart as Vega-Lite's JSON."""
    return chart.to_dict(validate=False)


def png_of(chart: Chart) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_png(drawable(spec_of(chart)), scale=2)


def svg_of(chart: Chart) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_svg(drawable(spec_of(chart))).encode()
