"""Pictures of a sweep: loss by each key, a heat map of two, curves, loss by parameters.

Each function makes a matplotlib figure and touches no global state; nothing here needs a display.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from lmlab.sweeps.curves import Band, band, curves, drawn
from lmlab.sweeps.frames import GREY, LOST, STYLE, new_figure, over, put_legend, put_title, unit_of
from lmlab.sweeps.leaderboard import figure as written
from lmlab.sweeps.leaderboard import heading, label
from lmlab.sweeps.scales import (
    COLOURS,
    ceiling,
    colours,
    is_number,
    log_axis,
    number_axis,
    ordered,
)
from lmlab.sweeps.table import METRICS, MISSING, Group, Table, canonical, shown

MOST_CURVES = 12
MOST_SERIES = 10
MOST_CELLS = 16  # of a heat map's side
BEST: dict[str, Any] = {
    "color": "black",
    "mfc": "#F0E442",
    "markersize": 15,
    "zorder": 5,
    "label": "_best",
}


def pictures(table: Table) -> Iterator[tuple[str, Figure]]:
    """Every picture that a table asks for, with its file's name."""
    with mpl.rc_context(STYLE):
        for key in table.columns:
            yield f"loss-by-{heading(key).replace('/', '-')}.png", by_key(table, key)
        if not table.columns and len(table.groups[0].counted) > 2:
            yield "loss-by-seed.png", by_seed(table)
        if _is_grid(table):
            yield "heat-map.png", heat_map(table)
        if len({group.average("parameters") for group in table.groups} - {None}) > 1:
            yield "loss-by-parameters.png", by_parameters(table)
        if told := _curves_to_draw(table):
            yield "curves.png", loss_curves(table, told)


@dataclass(frozen=True)
class Series:
    """Groups that are drawn alike."""

    label: str
    colour: Any
    marker: str
    groups: list[Group]
    joined: bool = False


def by_key(table: Table, key: str) -> Figure:
    """The loss against one key: a line for each value of the other key, if there is one other.

    With several others every setting is a point, and a line joins the best at each value. Values
    that are not numbers go down the page, the best on top.
    """
    groups = [group for group in table.groups if group.values[key] is not MISSING]
    values = ordered(group.values[key] for group in groups)
    along = all(map(is_number, values))
    if along:
        place = {canonical(value): float(value) for value in values}
    else:  # groups come sorted by loss
        by_loss = list(dict.fromkeys(canonical(group.values[key]) for group in groups))
        place = {value: float(-i) for i, value in enumerate(by_loss)}
    series, title = _series(table, groups, key, joined=along)
    fig, ax = new_figure(
        [one.label for one in series] if len(series) > 1 else [],
        height=4.8 if along else 1.9 + 0.42 * max(3, len(values)),
    )

    def position(group: Group) -> float:
        return place[canonical(group.values[key])]

    lost = _draw(ax, table, series, position, across=along)
    if along:
        number_axis(ax, [float(value) for value in values], heading(key))
        ax.set_ylabel(unit_of(table))
        ax.margins(x=0.08, y=0.14)
    else:
        ax.set_yticks([place[canonical(v)] for v in values], [label(key, v) for v in values])
        ax.set_ylim(0.7 - len(values), 0.7)
        ax.set_ylabel(heading(key))
        ax.set_xlabel(unit_of(table))
    put_title(ax, f"{METRICS[table.metric].name} by {heading(key)}", over(groups))
    put_legend(fig, ax, title, shown=len(series) > 1 or lost)
    return fig


def _series(
    table: Table, groups: list[Group], key: str, joined: bool
) -> tuple[list[Series], str | None]:
    """What is drawn against a key, and what its colours stand for."""
    others = [other for other in table.columns if other != key]
    if not others:
        return [Series("", COLOURS[0], "o", groups, joined)], None
    values = ordered(group.values[others[0]] for group in groups)
    if len(others) == 1 and len(values) <= MOST_SERIES:
        if not all(map(is_number, values)):  # the legend goes by loss, as the leaderboard does
            found = {canonical(v): v for v in (group.values[others[0]] for group in groups)}
            values = list(found.values())
        made = []
        for (colour, marker, _), value in zip(colours(values), values, strict=True):
            same = [g for g in groups if canonical(g.values[others[0]]) == canonical(value)]
            made.append(Series(label(others[0], value), colour, marker, same, joined))
        return made, heading(others[0])
    best = list({canonical(group.values[key]): group for group in reversed(groups)}.values())
    if len(best) > len(groups) / 2:  # a search that hardly meets a value twice
        return [Series("", COLOURS[0], "o", groups)], None
    return [
        Series("the best at each value", COLOURS[0], "o", best, joined),
        Series("every setting", GREY, ".", groups),
    ], None


def _draw(
    ax: Axes,
    table: Table,
    series: Sequence[Series],
    position: Callable[[Group], float],
    across: bool,
) -> bool:
    """Means with error bars, the best starred; whether any is lost: a cross at the far edge.

    `across`: positions run along x and losses up y, else down the page and along x.
    """
    top = ceiling(_mean(table, group) for one in series for group in one.groups)
    lost_any = False
    for one in series:
        groups = sorted(one.groups, key=position)
        there = [group for group in groups if _mean(table, group) <= top]
        at, means = [position(g) for g in there], [_mean(table, g) for g in there]
        spread = [_deviation(table, group) for group in there]
        style: dict[str, Any] = {
            "color": one.colour,
            "marker": one.marker,
            "linestyle": "-" if one.joined else "none",
            "capsize": 3,
            "elinewidth": 1.2,
            "zorder": 2 if one.colour == GREY else 3,
            "label": one.label or None,
        }
        if across:
            ax.errorbar(at, means, yerr=spread, **style)
        else:
            ax.errorbar(means, at, xerr=spread, **style)
        lost = [position(group) for group in groups if _is_lost(table, group, top)]
        lost_any |= bool(lost)
        edge = [0.985] * len(lost)
        transform = ax.get_xaxis_transform() if across else ax.get_yaxis_transform()
        ax.plot(
            *((lost, edge) if across else (edge, lost)),
            "x",
            color=one.colour,
            markeredgewidth=2,
            transform=transform,
            label="_lost",
        )
    best = table.best
    if best is not None and any(best in one.groups for one in series):
        x, y = position(best), _mean(table, best)
        text = f"best {written(best.mean(table.metric))}"
        by: dict[str, Any] = {"textcoords": "offset points", "fontsize": 10}
        if across:
            ax.plot(x, y, "*", **BEST)
            ax.annotate(text, (x, y), (0, -20), ha="center", **by)
        else:
            ax.plot(y, x, "*", **BEST)
            ax.annotate(text, (y, x), (-6, 11), ha="left", **by)
    if lost_any:
        ax.plot([], [], "x", color=GREY, markeredgewidth=2, label=LOST)
    return lost_any


def by_seed(table: Table) -> Figure:
    """The loss of each seed of one setting, beside their mean and deviation."""
    (group,) = table.groups
    rows = sorted(group.counted, key=lambda row: (not is_number(row.seed), row.seed))
    mean, spread = _mean(table, group), _deviation(table, group)
    fig, ax = new_figure([])
    ax.axhspan(mean - spread, mean + spread, color=COLOURS[0], alpha=0.15, lw=0)
    ax.axhline(mean, color=COLOURS[0])
    losses = [METRICS[table.metric].read(row) for row in rows]
    ax.plot(range(len(rows)), [math.nan if x is None else x for x in losses], "o", color=COLOURS[1])
    if len(rows) <= 20:
        ax.set_xticks(range(len(rows)), [shown(row.seed) for row in rows])
    ax.set_xlabel("seed")
    ax.set_ylabel(unit_of(table))
    put_title(
        ax, f"{METRICS[table.metric].name} by seed", f"{written(mean=group.mean(table.metric))}"
    )
    return fig


def heat_map(table: Table) -> Figure:
    """The loss over two keys: a number in each cell, grey where there is none."""
    down, across = table.columns
    if _all_numbers(table, down) and not _all_numbers(table, across):
        down, across = across, down
    columns = ordered(group.values[across] for group in table.groups)
    rows = ordered(group.values[down] for group in table.groups)
    if not _all_numbers(table, down):  # the best on top, as in the leaderboard
        rows = list({canonical(g.values[down]): g.values[down] for g in table.groups}.values())
    row_of = {canonical(value): i for i, value in enumerate(rows)}
    column_of = {canonical(value): i for i, value in enumerate(columns)}
    finite = [x for group in table.groups if math.isfinite(x := _mean(table, group))] or [0.0]
    high = min(ceiling(finite), max(finite))
    cells = [[math.nan] * len(columns) for _ in rows]
    fig, ax = new_figure([], 3.4 + 0.85 * max(3, len(columns)), 2.0 + 0.5 * max(2, len(rows)))
    text: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "fontsize": 10 if len(columns) <= 10 else 8,
    }
    for group in table.groups:
        i, j = row_of[canonical(group.values[down])], column_of[canonical(group.values[across])]
        value = _mean(table, group)
        if math.isfinite(value):
            cells[i][j] = value
            is_light = (value - min(finite)) > 0.6 * (high - min(finite))
            number = f"{value:.3f}" if abs(value) < 1e3 else f"{value:.2g}"
            ax.text(j, i, number, color="black" if is_light else "white", **text)
        elif _is_lost(table, group, math.inf):
            ax.text(j, i, "failed", color="#555555", **text)
        if group is table.best:
            frame = Rectangle((j - 0.47, i - 0.46), 0.94, 0.92, fill=False, lw=3, ec=COLOURS[1])
            ax.add_patch(frame)
    colour_map = mpl.colormaps["viridis"].with_extremes(bad="#dddddd")
    image = ax.imshow(cells, cmap=colour_map, vmin=min(finite), vmax=high, aspect="auto")
    ax.set_xticks(range(len(columns)), [label(across, v, 14) for v in columns])
    ax.set_yticks(range(len(rows)), [label(down, v) for v in rows])
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(heading(across))
    ax.set_ylabel(heading(down))
    extend = "max" if max(finite) > high else "neither"
    bar = fig.colorbar(image, ax=ax, label=unit_of(table), extend=extend)
    bar.outline.set_visible(False)
    title = f"{METRICS[table.metric].name} by {heading(down)} and {heading(across)}"
    put_title(ax, title, over(table.groups))
    return fig


def _curves_to_draw(table: Table) -> list[tuple[Group, Band]]:
    """val/loss over seeds of the best settings that have any."""
    told: list[tuple[Group, Band]] = []
    for group in table.groups:
        of_runs = [curves(row, ["val/loss"])["val/loss"] for row in drawn(group)]
        averaged = band([curve for curve in of_runs if curve])
        if averaged is not None:
            told.append((group, averaged))
        if len(told) == MOST_CURVES:
            break
    return told


def loss_curves(table: Table, told: list[tuple[Group, Band]]) -> Figure:
    """val/loss while training: means, with a band of one standard deviation over seeds."""
    groups = [group for group, _ in told]
    keys = [key for key in table.columns if len({canonical(g.values[key]) for g in groups}) > 1]
    scaled = len(keys) == 1 and all(is_number(group.values[keys[0]]) for group in groups)
    if scaled:
        told = sorted(told, key=lambda pair: pair[0].values[keys[0]])
        styles = colours([group.values[keys[0]] for group, _ in told])
    else:
        styles = colours(range(len(told)), ranked=True)
    names = [", ".join(label(key, group.values[key]) for key in keys) for group, _ in told]
    fig, ax = new_figure([*names, ", ".join(map(heading, keys))] if len(told) > 1 else [], height=5)
    for (_, mean), (colour, _, line), called in zip(told, styles, names, strict=True):
        if len(mean.steps) == 1:
            line = "o"
        ax.plot(mean.steps, mean.mean, line, color=colour, label=called or None)
        if mean.n > 1:
            below = [m - d for m, d in zip(mean.mean, mean.deviation, strict=True)]
            above = [m + d for m, d in zip(mean.mean, mean.deviation, strict=True)]
            ax.fill_between(mean.steps, below, above, color=colour, alpha=0.18, lw=0)
    # The steep beginning would press the rest flat: the axis shows what comes after a fifth.
    late = [
        value
        for _, mean in told
        for step, value in zip(mean.steps, mean.mean, strict=True)
        if math.isfinite(value) and step >= mean.steps[-1] / 5
    ]
    if late and max(late) > min(late):
        low, high = min(late), min(max(late), ceiling(late))
        ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    ax.set_xlabel("step")
    ax.set_ylabel("val/loss, nats per token")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    some = f": the {len(told)} best of {len(table.groups)}" if len(told) < len(table.groups) else ""
    put_title(ax, f"val/loss while training{some}", over(groups))
    put_legend(fig, ax, ", ".join(map(heading, keys)), shown=len(told) > 1)
    return fig


def by_parameters(table: Table) -> Figure:
    """The loss against the number of parameters, on a log axis: a colour for each setting."""
    # A model of none, such as the n-gram's counts, has no place on the axis.
    groups = [group for group in table.groups if group.average("parameters")]
    groups.sort(key=_parameters)
    names = [", ".join(label(k, v) for k, v in group.values.items()) for group in groups]
    few = len(groups) <= MOST_CURVES
    styles = colours(range(len(groups)), ranked=True)
    series = [
        Series(called, colour, marker, [group])
        for group, called, (colour, marker, _) in zip(groups, names, styles, strict=True)
    ]
    headings = ", ".join(map(heading, table.columns))
    fig, ax = new_figure([*names, headings] if few else [], height=5)
    lost = _draw(
        ax,
        table,
        series if few else [Series("", COLOURS[0], "o", groups)],
        _parameters,
        across=True,
    )
    lowest, frontier = math.inf, []
    for group in groups:
        if _mean(table, group) < lowest:
            lowest = _mean(table, group)
            frontier.append(group)
    ax.plot(
        [_parameters(group) for group in frontier],
        [_mean(table, group) for group in frontier],
        "--",
        color=GREY,
        linewidth=1,
        zorder=1,
        label="the best up to a size",
    )
    log_axis(ax, counts=True)
    ax.set_xlabel("parameters")
    ax.set_ylabel(unit_of(table))
    ax.margins(x=0.08, y=0.14)
    tokens = {row.tokens for group in groups for row in group.counted}
    (same,) = tokens if len(tokens) == 1 else (None,)
    at = "" if same is None else f"; each trained on {same:,} tokens"
    put_title(ax, f"{METRICS[table.metric].name} by parameters", over(groups) + at)
    put_legend(fig, ax, headings if few else None, shown=few or lost)
    return fig


def _mean(table: Table, group: Group) -> float:
    mean = group.mean(table.metric)
    return math.nan if mean is None else mean.mean


def _deviation(table: Table, group: Group) -> float:
    mean = group.mean(table.metric)
    return 0.0 if mean is None else mean.deviation or 0.0


def _parameters(group: Group) -> float:
    return group.average("parameters") or 0.0


def _is_lost(table: Table, group: Group, top: float) -> bool:
    """Failed or diverged: it has no loss that can be drawn, and will not get one by waiting."""
    value = _mean(table, group)
    if math.isfinite(value):
        return value > top
    return any(row.status in ("done", "failed", "killed") for row in group.rows)


def _is_grid(table: Table) -> bool:
    """Two keys, with cells enough to be worth a map and not too many to be read."""
    if len(table.columns) != 2:
        return False
    if any(value is MISSING for group in table.groups for value in group.values.values()):
        return False
    sides = [len({canonical(g.values[key]) for g in table.groups}) for key in table.columns]
    return min(sides) > 1 and max(sides) <= MOST_CELLS and len(table.groups) > max(sides)


def _all_numbers(table: Table, key: str) -> bool:
    return all(is_number(group.values[key]) for group in table.groups)
