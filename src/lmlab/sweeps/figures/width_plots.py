"""Pictures of a sweep over widths: does a learning rate transfer, do activations keep their size?

Each parametrisation, or whatever else differs, has axes of its own, side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lmlab.files import open_to_read
from lmlab.runs.directory import METRICS
from lmlab.sweeps.figures.figures import (
    DPI,
    STYLE,
    put_legend,
    put_title,
    what_a_point_is,
    with_unit,
)
from lmlab.sweeps.figures.scales import number_axis, ordered, styles_of
from lmlab.sweeps.table.curves import of_all_seeds, read_curves
from lmlab.sweeps.table.settings import Table, folded
from lmlab.sweeps.table.values import canonical, ceiling, heading, is_number, label

WIDTH, RATE = "model.n_embd", "optimizer.lr"
ACTIVATIONS, LOGITS = "activations/", "activations/logits"
MOST_PANELS = 4
MOST_STEPS = 7  # that have a line


def width_pictures(table: Table) -> Iterator[tuple[str, Figure]]:
    """Those that the table has the keys for, each with its file's name."""
    if WIDTH not in table.keys or not all(map(is_number, table.settings[WIDTH])):
        return
    with mpl.rc_context(STYLE):
        if RATE in table.keys and (panels := _panels(table, RATE)):
            yield "rate-by-width.png", by_rate(table, panels)
        if (panels := _panels(table)) and len(sizes := _sizes(table)):
            yield "activations-by-width.png", by_width(table, panels, sizes)


def _panels(table: Table, *others: str) -> dict[str, pd.DataFrame]:
    """The settings of each pair of axes by its title; none if more than one other key differs.

    What follows from the width, such as the number of heads, is no other key.
    """
    settings = table.settings
    width = settings[WIDTH].map(canonical)
    free = [
        key
        for key in table.keys
        if key not in (WIDTH, *others)
        and settings[key].map(canonical).groupby(width).nunique().gt(1).any()
    ]
    if not free:
        return {"": settings}
    values = ordered(settings[free[0]])
    if len(free) > 1 or len(values) > MOST_PANELS:
        return {}
    texts = settings[free[0]].map(canonical)
    return {
        f"{heading(free[0])}={label(free[0], value)}": settings[texts == canonical(value)]
        for value in values
    }


def _axes(n_rows: int, n_columns: int) -> tuple[Figure, np.ndarray]:
    fig = Figure(figsize=(1.2 + 4.6 * n_columns, 1.2 + 2.9 * n_rows), dpi=DPI)
    axes = fig.subplots(n_rows, n_columns, sharex="col", sharey="row", squeeze=False)
    below = 0.6 / fig.get_figheight()  # for the axis' title and a footnote
    fig.subplots_adjust(wspace=0.08, hspace=0.12, bottom=below, top=0.95)
    return fig, axes


def by_rate(table: Table, panels: dict[str, pd.DataFrame]) -> Figure:
    """The loss by learning rate, a line for each width, the best rate of each starred."""
    widths = ordered(table.settings[WIDTH])
    top = ceiling(table.loss)
    fig, axes = _axes(1, len(panels))
    for ax, (title, settings) in zip(axes[0], panels.items(), strict=True):
        number_axis(ax, [float(rate) for rate in ordered(table.settings[RATE])], heading(RATE))
        ax.tick_params(axis="x", labelsize=9)  # two panels share the width
        for width, style in zip(widths, styles_of(widths), strict=True):
            of_width = settings[settings[WIDTH] == width].sort_values(RATE, kind="stable")
            of_width = of_width[of_width[table.metric] <= top]
            rate, loss = of_width[RATE].astype(float), of_width[table.metric]
            deviation = of_width[f"{table.metric} sd"].fillna(0)
            look: dict[str, Any] = {"color": style.colour, "capsize": 3, "elinewidth": 1.2}
            ax.errorbar(rate, loss, deviation, marker="o", ms=4, label=label(WIDTH, width), **look)
            if len(loss):
                best = loss.idxmin()
                look = {"color": "black", "mfc": style.colour, "markersize": 14, "zorder": 5}
                ax.plot(rate[best], loss[best], "*", **look)
        put_title(ax, title or f"{table.metric} by {heading(RATE)}", _drift(table, settings))
    _footnote(fig, what_a_point_is(table.settings))
    axes[0][0].set_ylabel(with_unit(table))
    put_legend(axes[0][-1], heading(WIDTH))
    return fig


def best_rates(table: Table, settings: pd.DataFrame) -> pd.Series:
    """The rate with the lowest loss of each width."""
    done = settings[np.isfinite(settings[table.metric])]
    best = done.loc[done.groupby(WIDTH)[table.metric].idxmin()]
    return best.set_index(WIDTH)[RATE].astype(float).sort_index()


def _drift(table: Table, settings: pd.DataFrame) -> str:
    """How far the best rate moves from the smallest width to the largest."""
    best = best_rates(table, settings)
    if len(best) < 2:
        return ""
    narrow, wide = best.iloc[0], best.iloc[-1]
    return f"best rate: {narrow:g} at width {best.index[0]:g}, {wide:g} at {best.index[-1]:g}"


def _footnote(fig: Figure, text: str) -> None:
    fig.text(0.125, 0.05 / fig.get_figheight(), text, fontsize=10, color="#555555", va="top")


def _sizes(table: Table) -> pd.DataFrame:
    """Mean absolute activations: columns setting, run, step, and one per tag to be drawn."""
    runs = folded(table.runs)
    tags = [f"{ACTIVATIONS}{name}" for name in _measured(table, runs)]
    if not tags:
        return pd.DataFrame()
    sizes = read_curves(runs, tags)
    for tag in tags:
        sizes[tag] = of_all_seeds(sizes, tag)[tag]  # NaN at all other steps
    return sizes.dropna(subset=tags, how="all")


def _measured(table: Table, runs: pd.DataFrame) -> list[str]:
    """What the runs have measured of their last block and of the logits."""
    for directory in runs["directory"]:
        try:
            with open_to_read(Path(directory, METRICS), within=Path(directory)) as file:
                columns = file.readline().decode(errors="replace").strip().split(",")
        except (OSError, ValueError):
            continue
        names = [c.removeprefix(ACTIVATIONS) for c in columns if c.startswith(ACTIVATIONS)]
        branches = [n for n in names if n.endswith((".attention", ".feed_forward"))]
        last = max((n.rpartition(".")[0] for n in branches), default="", key=_block_number)
        return [n for n in branches if n.rpartition(".")[0] == last] + [
            n for n in names if n == LOGITS.removeprefix(ACTIVATIONS)
        ]
    return []


def _block_number(name: str) -> int:
    number = name.rpartition(".")[2]
    return int(number) if number.isdecimal() else -1


def by_width(table: Table, panels: dict[str, pd.DataFrame], sizes: pd.DataFrame) -> Figure:
    """Mean absolute activations by width, a line for each step: flat, or growing."""
    widths = table.settings[WIDTH].astype(float)
    steps = sorted(map(int, sizes["step"].unique()))[:MOST_STEPS]
    tags = [column for column in sizes if str(column).startswith(ACTIVATIONS)]
    sizes = sizes.assign(width=sizes["setting"].map(widths))
    fig, axes = _axes(len(tags), len(panels))
    for row, tag in enumerate(tags):
        axes[row][0].set_ylabel(f"mean |{tag.removeprefix(ACTIVATIONS)}|")
        for ax, (title, settings) in zip(axes[row], panels.items(), strict=True):
            ours = sizes[sizes["setting"].isin(settings.index)]
            means = ours.groupby(["step", "width"])[tag].mean().dropna()
            number_axis(ax, sorted(set(widths)), heading(WIDTH) if row == len(tags) - 1 else "")
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
            for step, style in zip(steps, styles_of(steps), strict=True):
                if step in means.index.get_level_values("step"):
                    line = means[step].sort_index()
                    ax.plot(line.index, line, "o-", ms=4, color=style.colour, label=str(step))
            if row == 0:
                put_title(ax, title or "activations by width", "")
    _footnote(fig, "mean absolute values, averaged over seeds")
    put_legend(axes[0][-1], "after step")
    return fig
