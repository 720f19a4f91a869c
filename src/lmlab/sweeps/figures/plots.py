"""Pictures of a sweep: loss by each key, a heat map of two, curves, loss by parameters.

seaborn draws the heat map and the curves. Points are matplotlib's: seaborn would average all
settings that share a place on the axis, and here each is a point with an error bar of its own.

Each function makes a figure that pyplot does not know of; nothing here needs a display.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import StrMethodFormatter

from lmlab.files import path_name
from lmlab.sweeps.compare.differences import Differences
from lmlab.sweeps.figures.figures import (
    GREY,
    LOST,
    STYLE,
    new_figure,
    put_legend,
    put_title,
    what_a_point_is,
    with_unit,
)
from lmlab.sweeps.figures.forest import forest
from lmlab.sweeps.figures.scales import (
    COLOURS,
    Style,
    distinct,
    has_a_place,
    log_axis,
    number_axis,
    ordered,
    places,
    styles_of,
)
from lmlab.sweeps.report.leaderboard import figure as written
from lmlab.sweeps.table.curves import has_curves, read_curves, shared_steps, spent_at
from lmlab.sweeps.table.settings import Table, folded
from lmlab.sweeps.table.values import (
    canonical,
    ceiling,
    heading,
    is_missing,
    is_number,
    label,
    shown,
)

MOST_CURVES = 12
MOST_LINES = 10
MOST_CELLS = 16  # along a side of a heat map
CURVE = "val/loss"
FLOPS = "FLOPs"
PLAIN = Style(COLOURS[0])
STAR: dict[str, Any] = {"color": "black", "mfc": "#F0E442", "markersize": 15, "zorder": 5}


def pictures(table: Table, comparisons: Sequence[Differences] = ()) -> Iterator[tuple[str, Figure]]:
    """Every picture that the table has enough runs for, with its file's name."""
    with mpl.rc_context(STYLE):
        for key in table.keys:
            yield f"loss-by-{path_name(heading(key))}.png", by_key(table, key)
        if not table.keys and (table.runs["counted"] | table.runs["diverged"]).sum() > 2:
            yield "loss-by-seed.png", by_seed(table)
        if _is_grid(table):
            yield "heat-map.png", heat_map(table)
        if table.settings["parameters"].nunique() > 1:
            yield "loss-by-parameters.png", by_parameters(table)
        curves = _curves_to_draw(table)
        if len(curves):
            yield "curves.png", loss_curves(table, curves)
            by_compute = _by_flops(table, curves)
            if by_compute is not None:
                yield "curves-by-flops.png", loss_curves(table, by_compute, x=FLOPS)
        for found in comparisons:
            if found.tested.any():
                yield f"difference-{path_name(found.quantity)}.png", forest(found)


@dataclass(frozen=True)
class Line:
    """Settings that are drawn alike."""

    label: str | None
    settings: pd.Index
    style: Style = PLAIN
    joined: bool = False


def by_key(table: Table, key: str) -> Figure:
    """The loss against one key: a line for each value of the other key, if there is one other.

    With several others every setting is a point, and a line joins the best at each value. Values
    that are not numbers go down the page, the best on top.
    """
    settings = table.settings[~table.settings[key].map(is_missing)]
    values = ordered(settings[key])
    if are_numbers := all(map(has_a_place, values)):
        fig, ax = new_figure()
        at = settings[key].astype("float64")
        number_axis(ax, [float(value) for value in values], heading(key))
        ax.set_ylabel(with_unit(table))
        ax.margins(x=0.08, y=0.14)
    else:
        fig, ax = new_figure(height=1.9 + 0.42 * max(3, len(values)))
        at = -places(settings[key])
        ax.set_yticks(-np.arange(len(values)), [label(key, value) for value in values])
        ax.set_ylim(0.7 - len(values), 0.7)
        ax.set_ylabel(heading(key))
        ax.set_xlabel(with_unit(table))
    lines, legend = _lines(table, settings, key, joined=are_numbers)
    _draw_points(ax, table, lines, at, along_x=are_numbers)
    put_title(ax, f"{table.metric} by {heading(key)}", what_a_point_is(settings))
    put_legend(ax, legend)
    return fig


def _lines(
    table: Table, settings: pd.DataFrame, key: str, joined: bool
) -> tuple[list[Line], str | None]:
    """What is drawn against a key, and the title of its legend."""
    others = [other for other in table.keys if other != key]
    if not others:
        return [Line(None, settings.index, joined=joined)], None
    values, texts = ordered(settings[others[0]]), settings[others[0]].map(canonical)
    if len(others) == 1 and len(values) <= MOST_LINES:
        return [
            Line(label(others[0], value), settings.index[texts == canonical(value)], style, joined)
            for value, style in zip(values, styles_of(values), strict=True)
        ], heading(others[0])
    best = settings.index[~settings[key].map(canonical).duplicated()]
    if len(best) > len(settings) / 2:  # a search that hardly meets a value twice
        return [Line(None, settings.index)], None
    every = Line("every setting", settings.index, Style(GREY, "."))
    return [Line("the best at each value", best, joined=joined), every], None


def _draw_points(
    ax: Axes, table: Table, lines: Sequence[Line], at: pd.Series, along_x: bool
) -> None:
    """Means with error bars, the best starred; a cross at the far edge for each that is lost.

    `at` is the place of each setting, along x, or else along y with the loss along x.
    """
    loss, deviation = table.loss[at.index], table.deviation[at.index]
    top = ceiling(loss)
    lost = _lost(table, top)[at.index]
    edge = pd.Series(0.985, at.index)  # as a part of the axis
    x, y = (at, loss) if along_x else (loss, at)
    cross_x, cross_y = (at, edge) if along_x else (edge, at)
    for line in lines:
        settings = at[line.settings].sort_values(kind="stable").index
        drawn, crossed = settings[loss[settings] <= top], settings[lost[settings]]
        ax.errorbar(
            x[drawn],
            y[drawn],
            **{"yerr" if along_x else "xerr": deviation[drawn].fillna(0)},
            color=line.style.colour,
            marker=line.style.marker,
            linestyle="-" if line.joined else "none",
            capsize=3,
            elinewidth=1.2,
            zorder=2 if line.style.colour == GREY else 3,
            label=line.label,
        )
        ax.plot(
            cross_x[crossed],
            cross_y[crossed],
            "x",
            color=line.style.colour,
            markeredgewidth=2,
            transform=ax.get_xaxis_transform() if along_x else ax.get_yaxis_transform(),
            label="_lost",
        )
    if (best := table.best) in at.index:
        ax.plot(x[best], y[best], "*", **STAR, label="_best")
        text = f"best {written(loss[best], deviation[best])}"
        where: dict[str, Any] = {"xytext": (0, -20) if along_x else (-6, 11)}
        where |= {"textcoords": "offset points", "ha": "center" if along_x else "left"}
        foot = np.nan_to_num(deviation[best]) if along_x else 0  # below the error bar
        ax.annotate(text, (x[best], y[best] - foot), fontsize=10, **where)
    if lost.any():
        ax.errorbar([], [], fmt="x", color=GREY, markeredgewidth=2, label=LOST)


def _lost(table: Table, top: float) -> pd.Series:
    """The settings that failed or diverged: no loss to draw, and none will come by waiting."""
    has_ended = table.runs["status"].isin(("done", "failed", "killed"))
    is_drawn = np.isfinite(table.loss) & (table.loss <= top)
    return has_ended.groupby(table.runs["setting"]).any() & ~is_drawn


def by_seed(table: Table) -> Figure:
    """The loss of each seed of one setting, beside their mean and deviation."""
    runs = table.runs[table.runs["counted"] | table.runs["diverged"]]
    runs = runs.loc[places(runs["seed"]).sort_values().index]
    mean, deviation = table.loss[1], table.deviation[1]
    fig, ax = new_figure()
    at = pd.Series(range(len(runs)), runs.index)
    loss = runs[table.metric].mask(runs["diverged"])
    is_drawn = loss <= ceiling(loss)
    if is_drawn.all():
        ax.axhspan(mean - deviation, mean + deviation, color=COLOURS[0], alpha=0.15, lw=0)
        ax.axhline(mean, color=COLOURS[0])
    ax.plot(at[is_drawn], loss[is_drawn], "o", color=COLOURS[1])
    if not is_drawn.all():
        style: dict[str, Any] = {"color": GREY, "markeredgewidth": 2, "label": LOST}
        ax.plot(
            at[~is_drawn],
            0.985 + 0 * at[~is_drawn],
            "x",
            transform=ax.get_xaxis_transform(),
            **style,
        )
        put_legend(ax, None)
    if len(runs) <= 20:
        ax.set_xticks(range(len(runs)), [shown(seed) for seed in runs["seed"]])
    ax.set_xlabel("seed")
    ax.set_ylabel(with_unit(table))
    lost = table.settings["status"][1] if table.settings["diverged"][1] else ""
    put_title(ax, f"{table.metric} by seed", lost or written(mean, deviation))
    return fig


def heat_map(table: Table) -> Figure:
    """The loss over two keys: a number in each cell, grey where there is none."""
    down, across = sorted(table.keys, key=lambda key: all(map(is_number, table.settings[key])))
    settings, loss = table.settings, table.loss.where(np.isfinite)
    place = pd.DataFrame({"x": places(settings[across]), "y": places(settings[down])})
    cells = place.assign(loss=loss).pivot(index="y", columns="x", values="loss")
    top = min(ceiling(loss), loss.max())
    fig, ax = new_figure(3.4 + 0.85 * max(3, cells.shape[1]), 2.0 + 0.5 * max(2, len(cells)))
    size = 10 if cells.shape[1] <= 10 else 8
    sns.heatmap(
        cells,
        ax=ax,
        annot=cells.map(lambda x: f"{x:.3f}" if abs(x) < 1e3 else f"{x:.2g}"),
        fmt="",
        annot_kws={"fontsize": size},
        cmap=mpl.colormaps["viridis"].with_extremes(bad="#dddddd"),
        vmax=top,
        cbar_kws={"label": with_unit(table), "extend": "max" if loss.max() > top else "neither"},
        xticklabels=[label(across, value, 14) for value in ordered(settings[across])],
        yticklabels=[label(down, value) for value in ordered(settings[down])],
    )
    centred: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size}
    for x, y in place[_lost(table, np.inf)].itertuples(index=False):
        ax.text(x + 0.5, y + 0.5, "failed", color="#555555", **centred)
    x, y = place.loc[table.best]
    ax.add_patch(Rectangle((x + 0.03, y + 0.04), 0.94, 0.92, fill=False, lw=3, ec=COLOURS[1]))
    ax.tick_params(length=0, rotation=0)
    ax.set_xlabel(heading(across))
    ax.set_ylabel(heading(down))
    title = f"{table.metric} by {heading(down)} and {heading(across)}"
    put_title(ax, title, what_a_point_is(settings))
    return fig


def _curves_to_draw(table: Table) -> pd.DataFrame:
    """val/loss of the best settings that kept any: columns setting, run, step and val/loss."""
    runs = folded(table.runs)
    runs = runs[runs["directory"].map(has_curves).astype(bool) | runs["diverged"]]
    runs = runs[runs["setting"].isin(runs["setting"].unique()[:MOST_CURVES])]
    return shared_steps(read_curves(runs, [CURVE]), CURVE)


def _by_flops(table: Table, curves: pd.DataFrame) -> pd.DataFrame | None:
    """The same curves with the operations that training took to each point; None where each step
    of all settings takes as many, or one takes none (a bigram only looks up) or nobody knows."""
    curves = curves[curves["step"] > 0]  # the axis is logarithmic
    flops = spent_at(table, curves, "flops")
    a_step = flops / curves["step"]
    if not (a_step > 0).all() or np.ptp(a_step) <= 0.01 * a_step.max():
        return None
    return curves.assign(**{FLOPS: flops})


def loss_curves(table: Table, curves: pd.DataFrame, x: str = "step") -> Figure:
    """val/loss while training: means, with a band of one standard deviation over seeds.

    `curves` has columns setting, run, step, val/loss and `x`: steps, or operations.
    """
    limits = _late_range(curves)
    off = _never_below(curves, limits[1])
    curves = curves[~curves["setting"].isin(off)]
    settings = table.settings.loc[curves["setting"].unique()]
    keys = [key for key in table.keys if settings[key].map(canonical).nunique() > 1]
    styles = distinct(len(settings))
    if len(keys) == 1 and all(map(is_number, settings[keys[0]])):
        settings = settings.loc[places(settings[keys[0]]).sort_values().index]
        styles = styles_of(list(settings[keys[0]]))
    fig, ax = new_figure(height=5)
    sns.lineplot(
        curves,
        x=x,
        y=CURVE,
        hue="setting",
        hue_order=settings.index,
        palette=[style.colour for style in styles],
        errorbar="sd",
        err_kws={"alpha": 0.18, "lw": 0},
        legend=False,
        ax=ax,
    )
    names = _names(settings, keys)
    for line, name, style in zip(ax.lines, names, styles, strict=True):
        line.set(label=name or None, linestyle=style.dash)
        if np.size(line.get_xdata()) == 1:
            line.set_marker(style.marker)
    ax.set_ylim(*limits)
    ax.set_ylabel(f"{CURVE}, nats per token")
    if x == FLOPS:
        log_axis(ax, [curves[x].min(), curves[x].max()])
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0e}"))
        ax.set_xlabel("floating-point operations of training")
    else:
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    n, n_all = len(settings) + len(off), len(table.settings)
    some = f": the {n} best of {n_all}" if n < n_all else ""
    lost = f"; {len(off)} off the scale" if len(off) else ""
    if n_diverged := int((settings["diverged"] > 0).sum()):
        lost += f"; of {n_diverged} a seed diverged where the line ends"
    title = f"{CURVE} by compute" if x == FLOPS else f"{CURVE} while training"
    put_title(ax, f"{title}{some}", what_a_point_is(settings) + lost)
    put_legend(ax, ", ".join(map(heading, keys)))
    return fig


def _late_range(curves: pd.DataFrame) -> tuple[float | None, float | None]:
    """The range of an axis that shows what comes after a fifth of training.

    The steep beginning would press the rest flat.
    """
    means = curves.groupby(["setting", "step"], as_index=False)[CURVE].mean()
    last = means.groupby("setting")["step"].transform("max")
    late = means[CURVE][means["step"] >= last / 5]
    low, high = late.min(), min(late.max(), ceiling(late))
    margin = 0.06 * (high - low)
    return (low - margin, high + margin) if high > low else (None, None)


def _never_below(curves: pd.DataFrame, top: float | None) -> pd.Index:
    """The settings with no mean in sight: their bands would only cover the others."""
    lowest = curves.groupby(["setting", "step"])[CURVE].mean().groupby("setting").min()
    return lowest.index[lowest > (np.inf if top is None else top)]


def by_parameters(table: Table) -> Figure:
    """The loss against the number of parameters, on a log axis: a colour for each setting."""
    # A model of none, such as the n-gram's counts, has no place on the axis.
    settings = table.settings[table.settings["parameters"] > 0]
    settings = settings.sort_values("parameters", kind="stable")
    legend, lines = None, [Line(None, settings.index)]
    if len(settings) <= MOST_CURVES:
        legend, names = ", ".join(map(heading, table.keys)), _names(settings, table.keys)
        each = zip(names, settings.index, distinct(len(names)), strict=True)
        lines = [Line(name, pd.Index([setting]), style) for name, setting, style in each]
    fig, ax = new_figure(height=5)
    log_axis(ax, list(settings["parameters"]), counts=True)
    _draw_points(ax, table, lines, settings["parameters"], along_x=True)
    loss = settings[table.metric].dropna()
    best = settings.loc[loss.index[loss < loss.cummin().shift(fill_value=np.inf)]]
    style: dict[str, Any] = {"color": GREY, "linewidth": 1, "zorder": 1}
    ax.plot(best["parameters"], best[table.metric], "--", **style, label="the best up to a size")
    ax.set_xlabel("parameters")
    ax.set_ylabel(with_unit(table))
    ax.margins(x=0.08, y=0.14)
    tokens = settings["tokens"].unique()
    at = f"; each trained on {tokens[0]:,.0f} tokens" if len(tokens) == 1 and tokens[0] > 0 else ""
    put_title(ax, f"{table.metric} by parameters", what_a_point_is(settings) + at)
    put_legend(ax, legend)
    return fig


def _names(settings: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """The settings by their values, for a legend with the keys as its title."""
    values = settings[list(keys)].itertuples(index=False, name=None)
    return [", ".join(map(label, keys, of_setting)) for of_setting in values]


def _is_grid(table: Table) -> bool:
    """Two keys, with cells enough to be worth a map and not too many to be read."""
    if len(table.keys) != 2 or table.best is None:
        return False
    sides = [len(ordered(table.settings[key])) for key in table.keys]
    has_both = ~table.settings[table.keys].map(is_missing)
    is_worth_it = min(sides) > 1 and len(table.settings) > max(sides)
    return is_worth_it and max(sides) <= MOST_CELLS and bool(has_both.all(axis=None))
