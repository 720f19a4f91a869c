"""A scaling law as tables to read, as JSON and as CSV."""

from __future__ import annotations

import json
import math

import pandas as pd
from rich.console import Console
from rich.text import Text

from lmlab.console import make_console
from lmlab.sweeps.compare.law import Law
from lmlab.sweeps.compare.scaling import CONSTANTS, RESAMPLES, Interval, Scaling
from lmlab.sweeps.report.sections import Column, Section, grid_of

FORMULA = "L(N, D) = E + A / N^alpha + B / D^beta"
BEYOND = 10  # times the largest budget, for a look ahead
ALL = "all"


def amount(number: float) -> str:
    """A count to three digits: `950`, `49.4k`, `1.77M`, `16.9M`."""
    if math.isnan(number):
        return ""
    for power, unit in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 0.9995 * 10**power:
            return f"{_three(number / 10**power)}{unit}"
    return _three(number)


def _three(number: float) -> str:
    return f"{number:.3g}" if number < 999.5 else f"{number:.0f}"


def power(number: float) -> str:
    """A budget as it is typed: `2e12`."""
    return f"{number:.2g}".replace("e+", "e")


def sections(scaling: Scaling) -> list[Section]:
    """The law, what it says of budgets, and how far it was from what it had not seen."""
    return [_law(scaling), _budgets(scaling), *([_held_out(scaling)] if scaling.held_out else [])]


def print_scaling(scaling: Scaling, console: Console) -> None:
    for section in sections(scaling):
        console.print(Text(f"\n{section.title}"))
        rows = range(1, 1 + len(section.columns[0].cells))
        make_console(file=console.file, width=100_000).print(grid_of(section.columns, rows))
        for note in section.notes:
            console.print(Text(note, style="dim"))


def _law(scaling: Scaling) -> Section:
    found = {name: scaling.constant(name) for name in CONSTANTS}
    of_all = [getattr(scaling.of_all_parameters, name) for name in CONSTANTS]
    points, miss = scaling.points, misses(scaling)
    notes = [
        f"{scaling.metric} of {len(points)} settings, {int(points['n'].sum())} runs; N: parameters "
        "without embeddings and read-out, D: tokens seen in training",
        f"95 %: {RESAMPLES} fits to settings and seeds that were drawn again",
        f"the law misses these settings by {miss.abs().median():.1%} in the median, "
        f"{miss.abs().max():.1%} at most",
    ]
    repeated = points[points["passes"] > 1]
    if len(repeated):
        notes.append(
            f"{len(repeated)} of the settings read the text more than once, up to "
            f"{repeated['passes'].max():.1f} times; the law takes tokens as if they were new"
        )
    if not scaling.law.is_told_by(points["parameters"], points["tokens"]):
        notes.append(
            "these runs do not tell all five: a term hardly changes along them, or has no exponent"
        )
    columns = [
        Column("constant", False, list(CONSTANTS)),
        Column("value", True, [_short(found[name].value) for name in CONSTANTS]),
        Column("95 %", True, [_range(found[name], _short) for name in CONSTANTS]),
        Column("N of all parameters", True, list(map(_short, of_all))),
    ]
    return Section(FORMULA, columns, [*notes, *scaling.remarks])


def _short(number: float) -> str:
    return f"{number:.4g}" if number < 9999.5 else power(number)


def _range(interval: Interval, text=_short) -> str:  # type: ignore[no-untyped-def]
    if math.isnan(interval.low):
        return ""
    return f"{text(interval.low)} to {text(interval.high)}"


def optima(scaling: Scaling) -> list[tuple[float, Interval, Interval, Interval]]:
    """Of each budget, and one beyond: N*, D* and the loss there."""
    budgets = scaling.budgets
    return [
        (
            budget,
            scaling.at(budget, Law.best_parameters),
            scaling.at(budget, Law.best_tokens),
            scaling.at(budget, Law.best_loss),
        )
        for budget in [*budgets, BEYOND * budgets[-1]]
    ]


def _budgets(scaling: Scaling) -> Section:
    found = optima(scaling)
    budgets, parameters, tokens, losses = zip(*found, strict=True)

    def loss(number: float) -> str:
        return "" if math.isnan(number) else f"{number:.3f}"

    columns = [Column("operations", True, list(map(power, budgets)))]
    for heading, text, intervals in (
        ("N*", amount, parameters),
        ("D*", amount, tokens),
        ("loss", loss, losses),
    ):
        columns.append(Column(heading, True, [text(i.value) for i in intervals]))
        columns.append(Column("95 %", True, [_range(i, text) for i in intervals]))
    ratios = [d.value / n.value for n, d in zip(parameters, tokens, strict=True)]
    columns.insert(5, Column("D* / N*", True, [_short(r) if r == r else "" for r in ratios]))
    law = scaling.law
    of_n, of_d = (x / (law.alpha + law.beta) for x in (law.beta, law.alpha))
    notes = [
        f"where 6 N D operations are spent best: N* grows as C^{of_n:.2f}, D* as C^{of_d:.2f}",
        f"the last row is {BEYOND} times more than was spent",
    ]
    return Section("compute-optimal sizes", columns, notes)


def _held_out(scaling: Scaling) -> Section:
    rows = [(held, point) for held in scaling.held_out for _, point in held.points.iterrows()]
    columns = [
        Column("left out", False, [held.what for held, _ in rows]),
        Column("N", True, [amount(point["parameters"]) for _, point in rows]),
        Column("D", True, [amount(point["tokens"]) for _, point in rows]),
        Column("predicted", True, [f"{point['predicted']:.4f}" for _, point in rows]),
        Column("measured", True, [f"{point['loss']:.4f}" for _, point in rows]),
        Column("miss", True, [f"{_miss(point):+.1%}" for _, point in rows]),
    ]
    return Section(
        "what the law had not seen", columns, ["predicted by a law of the settings that are left"]
    )


def _miss(point: pd.Series) -> float:
    return float(point["predicted"] / point["loss"] - 1)


def misses(scaling: Scaling) -> pd.Series:
    """Of each point: how far the law is above it, as a part of its loss."""
    points = scaling.points
    return scaling.law.loss(points["parameters"], points["tokens"]) / points["loss"] - 1


def scaling_csv(scaling: Scaling) -> str:
    """A row per point, smallest budget first, with what the law says of it."""
    points = scaling.points
    fitted = scaling.law.loss(points["parameters"], points["tokens"])
    return points.assign(fitted=fitted).to_csv(index=False, lineterminator="\n")


def scaling_json(scaling: Scaling) -> str:
    """The law with its intervals, the optima, and what was held out, in full precision."""

    def plain(interval: Interval) -> dict[str, float | None]:
        return {name: _number(value) for name, value in vars(interval).items()}

    found = {
        "formula": FORMULA,
        "metric": scaling.metric,
        "settings": len(scaling.points),
        "runs": int(scaling.points["n"].sum()),
        "law": {name: plain(scaling.constant(name)) for name in CONSTANTS},
        "law_of_all_parameters": vars(scaling.of_all_parameters),
        "optimal": [
            {
                "operations": budget,
                "parameters": plain(parameters),
                "tokens": plain(tokens),
                "loss": plain(loss),
            }
            for budget, parameters, tokens, loss in optima(scaling)
        ],
        "held_out": [
            {
                "left_out": held.what,
                "law": vars(held.law),
                "settings": held.points[["parameters", "tokens", "loss", "predicted"]].to_dict(
                    "records"
                ),
            }
            for held in scaling.held_out
        ],
        "remarks": scaling.remarks,
    }
    return json.dumps(found, indent=2) + "\n"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
