"""What every picture has: its style, its size, its title, its legend."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmlab.sweeps.table.settings import METRICS, Table

DPI = 150
LOST = "failed, or off the scale"
GREY = "#8a8a8a"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "axes.edgecolor": "#666666",
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "savefig.bbox": "tight",  # the legend stands outside the axes
    "text.parse_math": False,  # a value may hold dollars
}


def new_figure(width: float = 7.5, height: float = 4.8) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, sizes in inches."""
    fig = Figure(figsize=(width, height), dpi=DPI)
    return fig, fig.add_subplot()


def with_unit(table: Table) -> str:
    """The metric as an axis is labelled: `val/loss_full, nats per token`."""
    return f"{table.metric}, {METRICS[table.metric].unit}"


def what_a_point_is(settings: pd.DataFrame) -> str:
    """For the line below a title: over how many seeds. One that diverged leaves no mean."""
    diverged = settings["diverged"] > 0
    n = sorted(set(settings["n"][~diverged]) - {0})
    if not n:
        return "a seed of each diverged" if diverged.any() else "nothing done yet"
    if n[-1] == 1:
        return "one seed each"
    return f"mean ± standard deviation over {f'{n[0]} to ' if len(n) > 1 else ''}{n[-1]} seeds"


def put_title(ax: Axes, title: str, below: str) -> None:
    ax.set_title(title, pad=22)
    ax.annotate(
        below,
        (0, 1),
        (0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=10,
        color="#555555",
    )


def put_legend(ax: Axes, title: str | None) -> None:
    """Beside the axes, if anything drawn has a label."""
    handles, labels = ax.get_legend_handles_labels()
    if labels:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1)}
        ax.legend(handles, labels, title=title, alignment="left", borderaxespad=0, **place)
