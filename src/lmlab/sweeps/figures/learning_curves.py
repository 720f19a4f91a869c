"""Losses while training: means over seeds with their spread, by what training took.

A chart shows one loss by one amount. What else could be shown stands beside it, in its `usermeta`:
a page puts another axis, or the single seeds, into the same description.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lmlab.runs.directory import SPENT_COLUMNS
from lmlab.sweeps.figures import charts, scales
from lmlab.sweeps.figures.charts import Chart, Lines
from lmlab.sweeps.figures.scales import Axis
from lmlab.sweeps.table.curves import has_curves, read_curves, shared_steps
from lmlab.sweeps.table.settings import Table, folded
from lmlab.sweeps.table.taken import spent_at
from lmlab.sweeps.table.values import canonical, ceiling, heading, is_number
from lmlab.sweeps.table.words import setting_names

CURVES, BY_COMPUTE = "curves", "curves-by-flops"  # names of figures
FEW = 15  # evaluations, each of which gets a marker
MOST_POINTS = 4_000  # of single seeds: more take evenly fewer evaluations
# What training takes: the title of its axis, how it is written, and with a ratio between its ticks.
AMOUNTS = {
    "steps": ("optimizer steps", ",d", "~s"),
    "tokens": ("tokens seen in training", "~s", "~s"),
    "seconds": ("seconds of training, evaluations included", ",~f", "~g"),
    "flops": ("floating-point operations of training", "~e", "~e"),
}
PICKED = alt.selection_point(name="picked", fields=["line"], bind="legend")
LOSSES = {"val": "val/loss", "train": "train/loss_eval", "gap": "val/loss - train/loss_eval"}


@dataclass(frozen=True)
class Curves:
    """The curves of the best settings of a table.

    `values` has a row for each run and evaluation: setting, run, step, those of AMOUNTS that are
    known of all, and those of LOSSES that were logged.
    """

    table: Table
    values: pd.DataFrame

    @property
    def amounts(self) -> list[str]:
        return [name for name in AMOUNTS if name in self.values]

    @property
    def losses(self) -> list[str]:
        return [name for name in LOSSES if self.values[name].notna().any()]

    @property
    def settings(self) -> pd.DataFrame:
        """Those that have a curve, in the order of the legend."""
        settings = self.table.settings.loc[self.values["setting"].unique()]
        keys = self.keys
        if len(keys) == 1 and all(map(is_number, settings[keys[0]])):
            return settings.sort_values(keys[0], kind="stable")
        return settings

    @property
    def keys(self) -> list[str]:
        """Those in which they differ."""
        settings = self.table.settings.loc[self.values["setting"].unique()]
        keys = self.table.keys
        return [key for key in keys if settings[key].map(canonical).nunique() > 1]

    @property
    def differ_in_cost(self) -> bool:
        """Whether a step of some settings takes more operations than one of others."""
        if "flops" not in self.values:
            return False
        late = self.values[self.values["step"] > 0]
        a_step = late["flops"] / late["step"]
        return len(late) > 0 and bool(np.ptp(a_step) > 0.01 * a_step.max())


def curves_of(table: Table) -> Curves | None:
    """The curves of the best settings that kept any; None if none has."""
    runs = folded(table.runs)
    runs = runs[runs["directory"].map(has_curves).astype(bool) | runs["diverged"]]
    runs = runs[runs["setting"].isin(runs["setting"].unique()[: scales.MOST_DRAWN])]
    tags = {LOSSES[name]: name for name in ("val", "train")}
    values = read_curves(runs, [*tags, *SPENT_COLUMNS]).rename(columns=tags)
    # A run without any keeps a row: no mean over the others is taken for one over all.
    has_any = values[["val", "train"]].notna().any(axis=1)
    values = values[has_any | ~values["run"].duplicated()].reset_index(drop=True)
    if not len(shared_steps(values, "val")):
        return None
    values["gap"] = values["val"] - values["train"]
    drawn = values[values["val"].notna() | values["train"].notna()]
    amounts = {
        "steps": values["step"].astype("float64"),
        **{name: spent_at(table, values, name) for name in SPENT_COLUMNS},
    }
    values = values.drop(columns=list(SPENT_COLUMNS))
    for name, amount in amounts.items():
        known = amount[drawn.index]
        if known.notna().all() and known[drawn["step"] > 0].gt(0).all():
            values[name] = amount
    return Curves(table, values)


def loss_curves(curves: Curves, x: str = "steps", on_log: bool = False) -> Chart:
    """val/loss while training: means, with a band of one standard deviation over seeds.

    `x` is one of the curves' amounts. The chart's usermeta has `choices`: by channel (x or y) and
    name its encoding, `linear` or `log`; and a layer of the single `seeds`.
    """
    settings, names = curves.settings, setting_names(curves.settings, curves.keys)
    styles = scales.styles_of_settings(curves.table)
    lines = Lines(names, [styles[i] for i in settings.index], ", ".join(map(heading, curves.keys)))
    line_of = {setting: line for line, setting in enumerate(settings.index)}
    means = {loss: _means(curves, loss) for loss in curves.losses}
    limits = {loss: _late_range(points) for loss, points in means.items()}
    shown = {loss: _in_sight(points, limits[loss][1]) for loss, points in means.items()}
    points = pd.concat([_within(shown[loss], *limits[loss]).assign(loss=loss) for loss in means])
    points = points.assign(line=points["setting"].map(line_of)).drop(columns="setting")

    across = {name: _across(curves, name) for name in curves.amounts}
    up = {
        loss: _up(loss, limits[loss])
        | {"title": LOSSES[loss], "below": _below(curves, list(shown[loss]["setting"].unique()))}
        for loss in means
    }
    chart = _layers(curves, points, lines, names).encode(
        alt.X(**across[x]["log" if on_log else "linear"]), alt.Y(**up["val"]["linear"])
    )
    if on_log:
        chart = chart.transform_filter(f"datum['{x}'] > 0")
    seeds = _seeds(curves, line_of, lines)
    chart.usermeta = {"choices": {"x": across, "y": up}, "seeds": seeds}
    title = f"{LOSSES['val']} {'by compute' if x == 'flops' else 'while training'}"
    return charts.titled(chart, title, up["val"]["below"])


def seen(opacity: float) -> Any:
    """Of a line; of the others less, once some were picked in the legend."""
    return alt.when(PICKED).then(alt.value(opacity)).otherwise(alt.value(opacity / 8))


def _layers(curves: Curves, points: pd.DataFrame, lines: Lines, names: Sequence[str]) -> Any:
    """Bands, means, their markers, and what tells the values near the pointer."""
    near = alt.selection_point(
        name="near", nearest=True, on="pointermove", clear="pointerout", empty=False
    )

    written = {"steps": ",d", "tokens": ",d", "seconds": ",.1f", "flops": ".3~e"}
    tooltip = [
        alt.Tooltip("setting:N"),
        *(alt.Tooltip(f"{name}:Q", format=written[name]) for name in curves.amounts),
        alt.Tooltip("mean:Q", title="loss", format=".4f"),
        alt.Tooltip("sd:Q", title="standard deviation", format=".4f"),
    ]
    base = alt.Chart().encode(lines.colour())
    point = base.mark_point(filled=True).encode(lines.shape())
    layers = [
        base.mark_area(opacity=1).encode(alt.Y("low:Q"), y2="high", fillOpacity=seen(0.18)),
        base.mark_line().encode(charts.DASH, strokeOpacity=seen(1)).add_params(PICKED),
        point.transform_filter("datum.size > 0").encode(charts.SIZE, opacity=seen(1)),
        point.transform_filter("isValid(datum.mean)")
        .encode(
            size=alt.value(90),
            opacity=alt.when(near).then(alt.value(1)).otherwise(alt.value(0)),
            tooltip=tooltip,
        )
        .add_params(near),
    ]
    return (
        charts.sized(layers)
        .properties(data=charts.data(points.round(7)))
        .transform_filter(alt.FieldEqualPredicate(field="loss", equal="val"))
        .transform_calculate(
            setting=f"{json.dumps(scales.drawable(list(names)))}[datum.line]", dash=lines.dashes()
        )
    )


def _across(curves: Curves, name: str) -> dict[str, Axis]:
    """How an amount is drawn."""
    title, plain, ratio = AMOUNTS[name]
    axis = {"format": plain, "tickCount": 7, "labelOverlap": "greedy"}
    linear = {"field": name, "type": "quantitative", "title": title, "axis": axis}
    amount = curves.values[name][curves.values["step"] > 0]
    if not len(amount):
        return {"linear": linear}
    by_ratio = scales.ratio_axis(amount.min(), amount.max(), title, written=ratio)
    return {"linear": linear, "log": {"field": name, **by_ratio}}


def _up(loss: str, limits: tuple[float | None, float | None]) -> dict[str, Any]:
    """How a loss is drawn; by ratio only where all of it is above zero."""
    axis = scales.loss_axis(f"{LOSSES[loss]}, nats per token", *limits)
    linear = {"field": "mean", **axis}
    if limits[0] is None or limits[0] <= 0:
        return {"linear": linear}
    return {"linear": linear, "log": {**linear, "scale": {"type": "log", "domain": list(limits)}}}


def _below(curves: Curves, shown: Sequence[int]) -> str:
    """For the line below the title: what a point is, and what is not there."""
    settings, n_all = curves.table.settings.loc[shown], len(curves.table.settings)
    off = len(curves.settings) - len(settings)
    some = f"the {len(curves.settings)} best of {n_all}" if len(curves.settings) < n_all else ""
    lost = f"{off} off the scale" if off else ""
    diverged = int((settings["diverged"] > 0).sum())
    ends = f"of {diverged} a seed diverged where the line ends" if diverged else ""
    return charts.joined(charts.what_a_point_is(settings), some, lost, ends)


def _means(curves: Curves, loss: str) -> pd.DataFrame:
    """A row for each setting and step at which all its seeds have a value."""
    values = curves.values.loc[shared_steps(curves.values, loss).index]
    by_step = values.groupby(["setting", "step"])
    points = by_step[loss].agg(mean="mean", sd="std")
    points = points.join(by_step[curves.amounts].mean()).reset_index()
    low, high = points["mean"] - points["sd"], points["mean"] + points["sd"]
    is_few = points.groupby("setting")["step"].transform("size") <= FEW
    return points.assign(low=low, high=high, size=is_few.map({True: 24, False: 0}))


def _seeds(curves: Curves, line_of: Mapping[int, int], lines: Lines) -> dict[str, Any]:
    """A layer with a thin line for each run, to be put into the chart."""
    values = curves.values[curves.values["val"].notna() | curves.values["train"].notna()]
    values = values.assign(line=values["setting"].map(line_of)).round(7)
    of_run = values.groupby("run").cumcount(ascending=False)  # from the last
    values = values[of_run % math.ceil(len(values) / MOST_POINTS) == 0]
    rows = charts.data(values[["line", "run", *curves.amounts, *curves.losses]])
    layer = alt.Chart(rows).mark_line(strokeWidth=0.8, clip=True)
    layer = layer.encode(lines.colour(), alt.Y("val:Q"), opacity=seen(0.7), detail="run:N")
    about = layer.to_dict(validate=False)
    return {"data": rows.to_dict(), **{part: about[part] for part in ("mark", "encoding")}}


def _late_range(points: pd.DataFrame) -> tuple[float | None, float | None]:
    """The range of an axis whose upper end shows what comes after a fifth of training.

    The steep beginning would press the rest flat.
    """
    last = points.groupby("setting")["step"].transform("max")
    late = points["mean"][points["step"] >= last / 5]
    low, high = points["mean"].min(), min(late.max(), ceiling(late))
    margin = 0.06 * (high - low)
    return (low - margin, high + margin) if high > low else (None, None)


def _within(points: pd.DataFrame, low: float | None, high: float | None) -> pd.DataFrame:
    """The points of curves that are cut where they leave the axis. (A clipped mark says the same,
    and takes a renderer seconds.)"""
    if low is None or high is None:
        return points
    about = {"setting", "step", "sd", "size"}
    columns, losses = [c for c in points if c not in about], ["mean", "low", "high"]
    drawn = []
    for _, line in points.groupby("setting"):
        line = line.reset_index(drop=True)
        last = np.flatnonzero(np.diff(line["mean"] > high))  # before it crosses the upper end
        before, after = line.loc[last, columns], line.loc[last + 1, columns].set_index(last)
        share = (before["mean"] - high) / (before["mean"] - after["mean"])
        crossing = before + (after - before).mul(share, axis=0)
        line[losses] = line[losses].where(line["mean"] <= high)
        drawn += [line, line.loc[last].assign(**crossing, size=0)]
    cut = pd.concat(drawn).sort_values(["setting", "steps"], kind="stable")
    return cut.assign(**cut[["low", "high"]].clip(low, high))


def _in_sight(points: pd.DataFrame, top: float | None) -> pd.DataFrame:
    """Without the settings that are nowhere below the top: their bands would cover the others."""
    lowest = points.groupby("setting")["mean"].transform("min")
    return points[lowest <= (np.inf if top is None else top)]
