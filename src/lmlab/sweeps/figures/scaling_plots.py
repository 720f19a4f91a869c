"""Pictures of a scaling law: loss by compute and by size, beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from lmlab.sweeps.compare.law import OPERATIONS, Array, Law
from lmlab.sweeps.compare.scaling import LEVEL, ONE_BUDGET, Scaling
from lmlab.sweeps.figures.figures import GREY, STYLE, new_figure, put_legend, put_title
from lmlab.sweeps.figures.scales import log_axis, styles_of
from lmlab.sweeps.report.scaling_report import BEYOND, FORMULA, amount, power
from lmlab.sweeps.table.settings import METRICS


def scaling_pictures(scaling: Scaling) -> Iterator[tuple[str, Figure]]:
    """Each with its file's name."""
    with mpl.rc_context(STYLE):
        yield "scaling-by-compute.png", by_compute(scaling)
        yield "scaling-by-size.png", by_size(scaling)


def by_compute(scaling: Scaling) -> Figure:
    """The loss of each size by compute, and the frontier with its band, a decade further."""
    points = scaling.points
    fig, ax = new_figure(width=8.5, height=5.4)
    low, high = points["compute"].min(), points["compute"].max()
    log_axis(ax, [low, BEYOND * high])
    ax.xaxis.set_major_locator(LogLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: power(x)))
    sizes = sorted(points["parameters"].unique())
    for size, style in zip(sizes, styles_of(sizes), strict=True):
        of_size = points[points["parameters"] == size].sort_values("compute")
        _points(ax, of_size, of_size["compute"], style.colour, amount(size))
        compute = np.geomspace(of_size["compute"].min() / 1.6, of_size["compute"].max() * 1.6, 60)
        loss = scaling.law.loss(size, compute / (OPERATIONS * size))
        ax.plot(compute, loss, color=style.colour, lw=1.2, zorder=2)
    compute = np.geomspace(low, BEYOND * high, 120)
    least, most = _band(scaling, compute)
    ax.fill_between(compute, least, most, color="black", alpha=0.13, lw=0)
    ax.plot(compute, scaling.law.best_loss(compute), "k--", lw=1.4, label="the best size")
    ax.set_ylim(None, points["loss"].max() + 0.08 * np.ptp(points["loss"]))
    ax.set_xlabel("operations, 6 N D")
    _finish(ax, scaling, "compute", "parameters N")
    return fig


def by_size(scaling: Scaling) -> Figure:
    """The loss of each budget by size: where it is spent best, with the interval."""
    points = scaling.points
    fig, ax = new_figure(width=8.5, height=5.4)
    log_axis(ax, sorted(points["parameters"]), counts=True)
    budgets = scaling.budgets
    for budget, style in zip(budgets, styles_of(budgets), strict=True):
        near = (points["compute"] / budget).between(1 / ONE_BUDGET, ONE_BUDGET)
        of_budget = points[near].sort_values("parameters")
        _points(ax, of_budget, of_budget["parameters"], style.colour, power(budget))
        best = scaling.at(budget, Law.best_parameters)
        low, high = of_budget["parameters"].min() / 1.3, of_budget["parameters"].max() * 1.3
        sizes = np.geomspace(np.fmin(low, best.value / 1.3), np.fmax(high, best.value * 1.3), 60)
        loss = scaling.law.loss(sizes, budget / (OPERATIONS * sizes))
        ax.plot(sizes, loss, color=style.colour, lw=1.2, zorder=2)
        at = float(scaling.law.best_loss(budget))
        if not np.isnan(best.value):
            ax.plot([best.low, best.high], [at, at], color="black", lw=1.2, zorder=4)
            ax.plot(best.value, at, "*", color="black", mfc=style.colour, ms=13, zorder=5)
    ax.plot([], [], "k*", mfc="white", ms=11, label="spent best, 95 %")
    ax.set_ylim(None, points["loss"].max() + 0.08 * np.ptp(points["loss"]))
    ax.set_xlabel("parameters N, without embeddings and read-out")
    _finish(ax, scaling, "size", "operations")
    return fig


def _points(ax: Axes, points: pd.DataFrame, at: pd.Series, colour: Any, label: str) -> None:
    """Filled where the text was read once at most."""
    deviation = points["sd"].fillna(0)
    ax.errorbar(at, points["loss"], deviation, fmt="none", color=colour, capsize=3, zorder=3)
    again = points["passes"] > 1
    for rows, face in ((~again, colour), (again, "white")):
        ax.plot(at[rows], points["loss"][rows], "o", color=colour, mfc=face, mew=1.6, zorder=3)
    ax.plot([], [], "o-", color=colour, label=label)


def _band(scaling: Scaling, compute: Array) -> tuple[Array, Array]:
    drawn = np.stack([law.best_loss(compute) for law in scaling.draws])
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def _finish(ax: Axes, scaling: Scaling, by: str, legend: str) -> None:
    ax.set_ylabel(f"{scaling.metric}, {METRICS[scaling.metric].unit}")
    if (scaling.points["passes"] > 1).any():
        style: dict[str, Any] = {"color": GREY, "mfc": "white", "mew": 1.6}
        ax.plot([], [], "o", **style, label="text read again")
    law = scaling.law
    below = f"{FORMULA}: E {law.E:.3g}, alpha {law.alpha:.2f}, beta {law.beta:.2f}"
    put_title(ax, f"{scaling.metric} by {by}", below)
    put_legend(ax, legend)
