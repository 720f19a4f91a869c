"""What every picture has: its style, its size, its title, its legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmlab.sweeps.table import METRICS, Group, Table

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
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a value may hold dollars
}


def new_figure(
    legend: Sequence[str], width: float = 7.5, height: float = 4.8
) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, and room beside it for a legend of these lines (inches)."""
    if legend:
        width += 0.8 + 0.085 * max(map(len, [*legend, LOST]))
    fig = Figure(figsize=(width, height), dpi=DPI)
    return fig, fig.add_subplot()


def unit_of(table: Table) -> str:
    metric = METRICS[table.metric]
    return f"{metric.name}, {metric.unit}"


def over(groups: Sequence[Group]) -> str:
    """What a point is, for the line under a title."""
    n = sorted({len(group.counted) for group in groups if group.counted})
    if not n:
        return "nothing done yet"
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


def put_legend(fig: Figure, ax: Axes, title: str | None, shown: bool) -> None:
    """Beside the axes, what is lost last."""
    if not shown:
        return
    handles, labels = ax.get_legend_handles_labels()
    lines = sorted(zip(handles, labels, strict=True), key=lambda pair: pair[1] == LOST)
    handles, labels = [handle for handle, _ in lines], [text for _, text in lines]
    fig.legend(handles, labels, loc="outside right upper", title=title, alignment="left")
