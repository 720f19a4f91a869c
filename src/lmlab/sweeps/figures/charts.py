"""What every figure has: its look, titles and legend; points with their spread; how it is written.

A figure is a Vega-Lite chart: data and a description of how they are drawn, which a notebook and a
page show, and which becomes a PNG or an SVG without a browser.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from lmlab.sweeps.figures.scales import Style, by_place
from lmlab.sweeps.table.settings import METRICS

WIDTH, HEIGHT = 520, 340  # pixels of the axes; a PNG has twice as many
LOST = "×: failed, or off the scale"
INK, PALE = "#222222", "#666666"
STAR = "#F0E442"
ARROW = "M -3 -3 L 3 0 L -3 3 Z"
CONFIG: dict[str, Any] = {
    "background": "white",
    "padding": 14,
    "font": "Helvetica Neue, Arial, sans-serif",
    "view": {"stroke": None},
    "title": {"anchor": "start", "fontSize": 17, "subtitleFontSize": 13, "subtitleColor": PALE}
    | {"offset": 14, "subtitlePadding": 5, "frame": "group"},
    "axis": {"labelFontSize": 13, "titleFontSize": 13.5, "titleFontWeight": "normal"}
    | {"gridColor": "#e4e4e4", "domainColor": PALE, "tickColor": PALE, "titlePadding": 9},
    "legend": {"labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal"}
    | {"labelLimit": 300, "symbolSize": 80, "symbolStrokeWidth": 2, "offset": 22},
    "line": {"strokeWidth": 2},
    "text": {"fontSize": 13},
}
Chart = alt.TopLevelMixin  # a layered chart, or several beside each other


class Lines(NamedTuple):
    """What is drawn alike, for a legend: the column `line` of a frame counts them from 0."""

    names: Sequence[str]  # empty: no legend
    styles: Sequence[Style]
    title: str | None = None

    def _scale(self, values: list[Any]) -> alt.Scale:
        return alt.Scale(domain=list(range(len(values))), range=values)

    def _legend(self) -> alt.Legend | None:
        if not any(self.names):
            return None
        words = by_place(self.names)
        return alt.Legend(title=self.title, labelExpr=words, symbolType="circle", symbolOpacity=1)

    def colour(self) -> alt.Color:
        scale = self._scale([style.colour for style in self.styles])
        return alt.Color("line:N", scale=scale, legend=self._legend())

    def dash(self) -> alt.StrokeDash:
        scale = self._scale([list(style.dash) or [1, 0] for style in self.styles])
        return alt.StrokeDash("line:N", scale=scale, legend=self._legend())

    def marks(self, lines: pd.Series) -> pd.DataFrame:
        """The columns fill, shape and size of points on these lines."""
        marks = pd.DataFrame([(style.colour, style.shape, style.size) for style in self.styles])
        return marks.loc[lines].set_axis(["fill", "shape", "size"], axis=1).set_index(lines.index)


FILL = alt.Fill("fill:N", scale=None)
SHAPE, SIZE = alt.Shape("shape:N", scale=None), alt.Size("size:Q", scale=None)


def data(frame: pd.DataFrame) -> alt.InlineData:
    """The rows of a frame with plain columns; what is not finite is nothing."""
    rows = json.loads(frame.to_json(orient="records", double_precision=15))
    return alt.InlineData(values=rows)


def with_unit(metric: str) -> str:
    """A metric as an axis is labelled: `val/loss_full, nats per token`."""
    return f"{metric}, {METRICS[metric].unit}"


def loss_axis(title: str, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """An axis of losses, over what is drawn or in given bounds."""
    scale: dict[str, Any] = {"zero": False, "nice": False, "padding": 28}
    if low is not None and high is not None:
        scale = {"zero": False, "nice": False, "domain": [low, high]}
    return {"type": "quantitative", "title": title, "scale": scale, "axis": {"tickCount": 7}}


def what_a_point_is(settings: pd.DataFrame) -> str:
    """For the line below a title: over how many seeds. One that diverged leaves no mean."""
    diverged = settings["diverged"] > 0
    n = sorted(set(settings["n"][~diverged]) - {0})
    if not n:
        return "a seed of each diverged" if diverged.any() else "nothing done yet"
    if n[-1] == 1:
        return "one seed each"
    return f"mean ± standard deviation over {f'{n[0]} to ' if len(n) > 1 else ''}{n[-1]} seeds"


def titled(chart: Any, title: str, *below: str) -> Chart:
    """A finished figure: with its title, the lines below it, and the look of all figures."""
    lines = [line for line in below if line]
    about = alt.Title(title, subtitle=lines) if lines else alt.Title(title)
    return chart.properties(title=about).configure(**CONFIG)


def point_layers(
    points: pd.DataFrame,
    place: dict[str, Any],
    loss: dict[str, Any],
    lines: Lines,
    across: bool = True,
    joined: Sequence[int] = (),
    edge: int = HEIGHT,
) -> list[alt.Chart]:
    """Means with their spread, some lines joined, a star at each best, a cross for what is lost.

    `points` has the columns line, at (the place), loss, sd, setting (in words), is_lost, is_best
    and best (words beside a star). The place is `across` the page, or else down with the loss
    across. `edge` is how long the axis of the loss is: crosses stand at its far end.
    """
    at, of_loss = ("x", "y") if across else ("y", "x")
    sd = points["sd"].fillna(0)
    points = points.assign(low=points["loss"] - sd, high=points["loss"] + sd)
    base = alt.Chart(data(points.assign(**lines.marks(points["line"]))))
    where = {at: _channel(at, "at", place)}
    mean = {**where, of_loss: _channel(of_loss, "loss", loss)}
    spread = {**where, of_loss: _channel(of_loss, "low", loss), f"{of_loss}2": "high"}
    drawn = base.transform_filter("isValid(datum.loss) && !datum.is_lost")
    told = [alt.Tooltip("setting:N"), alt.Tooltip("loss:Q", format=".4f")]
    told.append(alt.Tooltip("sd:Q", title="standard deviation", format=".4f"))
    layers = []
    if len(joined):
        line = drawn.transform_filter(alt.FieldOneOfPredicate("line", list(joined))).mark_line()
        layers.append(line.encode(**mean, color=lines.colour(), strokeDash=lines.dash()))
    if points["sd"].gt(0).any():
        error = drawn.transform_filter("datum.sd > 0").mark_errorbar(ticks={"size": 7})
        layers.append(error.encode(**spread, color=lines.colour()))
    point = drawn.mark_point(filled=True, opacity=1).encode(SHAPE, SIZE, lines.colour(), **mean)
    layers.append(point.encode(tooltip=told))
    if points["is_lost"].any():
        cross = base.transform_filter("datum.is_lost")
        far = {of_loss: alt.value(5 if across else edge - 5)}
        cross = cross.mark_point(shape=CROSS, size=60, strokeWidth=2.2)
        layers.append(cross.encode(**where, **far, color=lines.colour(), tooltip=told[:1]))
    if points["is_best"].any():
        best = drawn.transform_filter("datum.is_best")
        star = best.mark_point(shape=STAR_SHAPE, size=220, filled=True, fill=STAR, stroke=INK,
                               strokeWidth=1.2, opacity=1)  # fmt: skip
        layers.append(star.encode(**mean, tooltip=told))
        words = {"dy": 16} if across else {"dy": -16, "dx": -8, "align": "left"}
        text = best.mark_text(color=INK, **words)
        low = {**where, of_loss: _channel(of_loss, "low" if across else "loss", loss)}
        layers.append(text.encode(**low, text="best:N"))
    return layers


CROSS = "M -1 -1 L 1 1 M -1 1 L 1 -1"
STAR_SHAPE = (
    "M 0 -1 L 0.235 -0.324 L 0.951 -0.309 L 0.38 0.124 L 0.588 0.809 L 0 0.4 "
    "L -0.588 0.809 L -0.38 0.124 L -0.951 -0.309 L -0.235 -0.324 Z"
)


def _channel(name: str, column: str, about: dict[str, Any]) -> Any:
    return {"x": alt.X, "y": alt.Y}[name](column, **about)


def png_of(chart: Chart) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_png(spec_of(chart), scale=2)


def svg_of(chart: Chart) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_svg(spec_of(chart)).encode()


def spec_of(chart: Chart) -> dict[str, Any]:
    """The chart as Vega-Lite's JSON."""
    return chart.to_dict(validate=False)
