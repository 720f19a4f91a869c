"""Losses while training of a few runs or settings, on val and on train, in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from lmlab.sweeps.figures import charts, scales
from lmlab.sweeps.figures.charts import Chart, Lines
from lmlab.sweeps.figures.learning_curves import PICKED, seen
from lmlab.sweeps.table.curves import shared_steps
from lmlab.sweeps.table.values import ceiling

VAL, TRAIN = TAGS = ("val/loss", "train/loss")
STYLES = {VAL: (), TRAIN: (2, 2)}  # the dashes of a line
EARLY = 0.2  # of training: what is steeper there would press the rest flat


def losses_side_by_side(curves: pd.DataFrame, names: Sequence[str]) -> Chart:
    """Means, with a band of one standard deviation where there are several seeds.

    `curves` has the columns setting (its place among `names`), run, step and TAGS.
    """
    points = pd.concat([_means(curves, tag) for tag in TAGS], ignore_index=True)
    late = points["mean"][points["step"] >= EARLY * points["step"].max()]
    low, top = min(late.min(), points["mean"].min()), ceiling(late)
    top = min(late.max(), top)
    margin = 0.06 * (top - low) or 0.1
    points = points.groupby(["setting", "tag"], group_keys=False)[points.columns].apply(
        _below, top + margin
    )
    few = points.groupby(["setting", "tag"])["step"].transform("size") <= 25
    legend = names if len(names) > 1 else [""]
    lines = Lines(legend, scales.distinct(len(names)))
    points = lines.marked(points.assign(line=points["setting"])).assign(
        size=np.where(few & (points["tag"] == VAL) & ~points["is_edge"], 24, 1),
        dash=points["tag"].map(STYLES),
        name=points["setting"].map(dict(enumerate(names))),
    )

    axis = {"format": ",d", "tickCount": 7, "labelOverlap": "greedy"}
    place = alt.X("step", type="quantitative", title="step", axis=axis)
    loss = scales.loss_axis("loss, nats per token", low - margin, top + margin)
    base = alt.Chart(charts.data(points)).encode(place, lines.colour(), detail="tag:N")
    tooltip = ["name:N", "tag:N", alt.Tooltip("step:Q", format=",d")]
    tooltip += [
        alt.Tooltip("mean:Q", title="loss", format=".4f"),
        alt.Tooltip("sd:Q", format=".4f"),
    ]
    mean = alt.Y("mean", **loss)
    band = base.mark_area().encode(alt.Y("low", **loss), y2="high", fillOpacity=seen(0.16))
    line = base.mark_line().encode(mean, charts.DASH, strokeOpacity=seen(1)).add_params(PICKED)
    marks = base.mark_point().encode(
        mean, charts.FILL, charts.SIZE, tooltip=tooltip, fillOpacity=seen(1), strokeOpacity=seen(1)
    )
    several = points["sd"].notna().any()
    below = charts.joined(
        "solid: val/loss, dotted: train/loss", "mean ± standard deviation" if several else ""
    )
    return charts.titled(charts.sized([band, line, marks]), "losses while training", below)


def _means(curves: pd.DataFrame, tag: str) -> pd.DataFrame:
    """Columns setting, tag, step, mean, sd (NaN for one seed), low and high."""
    by_step = shared_steps(curves, tag).groupby(["setting", "step"])[tag]
    means = by_step.agg(mean="mean", sd="std").reset_index()
    edges = {"low": means["mean"] - means["sd"], "high": means["mean"] + means["sd"]}
    return means.assign(tag=tag, **edges, is_edge=False)


def _below(line: pd.DataFrame, top: float) -> pd.DataFrame:
    """A line that begins and ends where it crosses the top. (A clipped mark says the same, and
    takes a renderer seconds.)"""
    line = line.reset_index(drop=True)
    is_in = line["mean"] <= top
    at = np.flatnonzero(is_in.to_numpy()[1:] != is_in.to_numpy()[:-1])
    first, second = line.loc[at].reset_index(drop=True), line.loc[at + 1].reset_index(drop=True)
    share = (top - first["mean"]) / (second["mean"] - first["mean"])
    step = first["step"] + share * (second["step"] - first["step"])
    crossing = first.assign(step=step, mean=top, low=np.nan, high=np.nan, sd=np.nan, is_edge=True)
    joined = pd.concat([line[is_in], crossing], ignore_index=True).sort_values("step")
    return joined.assign(high=joined["high"].clip(upper=top))
