"""A forest plot: how far each setting is from the baseline, with its interval."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmlab.sweeps.compare.differences import Differences, name_of
from lmlab.sweeps.compare.paired import LEVEL
from lmlab.sweeps.figures.figures import GREY, new_figure, put_title
from lmlab.sweeps.figures.scales import COLOURS
from lmlab.sweeps.report.verdicts import figures
from lmlab.sweeps.table.values import heading, label

MOST_SETTINGS = 30
WIDEST = 10  # differences beyond so many times the usual one are off the scale
TOLD, BASELINE = COLOURS[0], "#444444"


def forest(found: Differences) -> Figure:
    """The mean difference of each setting with its 95 % interval, and a dot for each seed.

    Settings go down the page, the best on top, their figures at the right.
    """
    table, rows = found.table, found.settings
    rows = rows[(rows["pairs"] > 0) | (rows.index == found.baseline)]
    n_all, rows = len(rows), rows.head(MOST_SETTINGS)
    others = rows.drop(index=found.baseline, errors="ignore")
    fig, ax = new_figure(height=1.9 + 0.42 * max(3, len(rows)))
    places = dict(zip(rows.index, range(0, -len(rows), -1), strict=True))

    limit = WIDEST * (statistics.median_low(np.abs(others["difference"])) or np.inf)
    beyond: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "color": GREY, "markersize": 9}
    for setting, difference, low, high in others[["difference", "low", "high"]].itertuples():
        y, is_told = places[setting], found.told[setting]
        if abs(difference) > limit:
            ax.plot(0.985 if difference > 0 else 0.015, y, ">" if difference > 0 else "<", **beyond)
            continue
        seeds = found.by_seed[setting].dropna()
        ax.plot(seeds, [y - 0.2] * len(seeds), "o", color="#bbbbbb", markersize=3.5, zorder=2)
        style: dict[str, Any] = {"color": TOLD if is_told else GREY, "zorder": 3}
        ax.plot([low, high], [y, y], "-", lw=2.2, solid_capstyle="butt", **style)
        ax.plot(difference, y, "o", mfc=style["color"] if is_told else "white", mew=1.8, **style)
    ax.axvline(0, color=BASELINE, lw=1, zorder=1)
    if found.baseline in places:
        ax.plot(0, places[found.baseline], "D", color=BASELINE, markersize=7, zorder=4)

    values = table.settings.loc[rows.index, table.keys].itertuples(index=False, name=None)
    names = [
        ", ".join(label(*pair, 32) for pair in zip(table.keys, v, strict=True)) for v in values
    ]
    ax.set_yticks(list(places.values()), names)
    ax.set_ylim(0.3 - len(rows), 0.7)
    ax.set_ylabel(", ".join(map(heading, table.keys)))
    ax.set_xlabel(f"difference, {found.unit} (below zero is better)")
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.08)
    left, right = ax.get_xlim()
    ax.set_xlim(max(left, -1.1 * limit), min(right, 1.1 * limit))
    _put_figures(ax, found, places)
    base = name_of(table, found.baseline) if found.baseline is not None else "nothing"
    below = _what_is_drawn(found)
    if (np.abs(others["difference"]) > limit).any():
        below += "; arrow: off the scale"
    if len(rows) < n_all:
        below += f"; the {len(rows)} best of {n_all}"
    put_title(ax, f"{found.quantity}, compared with {base}", below)
    return fig


def _put_figures(ax: Axes, found: Differences, places: dict[int, int]) -> None:
    """At the right of the axes: the difference with its interval, and p."""
    texts = figures(found)
    style: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "fontsize": 10, "va": "center"}
    columns = (("difference", 1.17, "right"), ("95 %", 1.21, "left"), ("p", 1.64, "right"))
    for column, x, side in columns:
        title = "p (Holm)" if column == "p" else column
        ax.text(x, 0.45, title, ha=side, color="#555555", **style)
        for setting, y in places.items():
            ax.text(x, y, texts[column][setting], ha=side, **style)


def _what_is_drawn(found: Differences) -> str:
    n = sorted(set(found.settings["pairs"][found.tested]))
    if not n:
        return "one seed in common: no interval can be given"
    seeds = f"{n[0]} to {n[-1]}" if len(n) > 1 else str(n[0])
    return (
        f"mean of {seeds} seeds (dots), 95 % interval; hollow and grey: not told apart, p ≥ {LEVEL}"
    )
