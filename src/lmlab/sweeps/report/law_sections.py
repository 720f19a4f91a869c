"""What a scaling law says: its constants, the best sizes, what it had not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from lmlab.sweeps.compare.scaling import BEYOND, CONSTANTS, FORMULA, RESAMPLES, Interval, Scaling
from lmlab.sweeps.kept import SCALING_CSV, SCALING_JSON
from lmlab.sweeps.report.sections import Column, Section
from lmlab.sweeps.table.words import amount, power

if TYPE_CHECKING:
    from lmlab.sweeps.figures.charts import Chart


def law_sections(scaling: Scaling) -> Iterator[Section]:
    """The law, what it says of budgets, and how far it was from what it had not seen."""
    yield _law(scaling)
    yield _budgets(scaling)
    if scaling.held_out:
        yield _held_out(scaling)


def _law(scaling: Scaling) -> Section:
    constants = [scaling.constant(name) for name in CONSTANTS]
    of_all = [getattr(scaling.of_all_parameters, name) for name in CONSTANTS]
    points = scaling.points
    fitted = scaling.law.loss(points["parameters"], points["tokens"])
    misses = (fitted / points["loss"] - 1).abs()
    notes = [
        f"{scaling.metric} of {len(points)} settings, {int(points['n'].sum())} runs; N: parameters "
        "without embeddings and read-out, D: tokens seen in training",
        f"95 %: {RESAMPLES} fits to settings and seeds that were drawn again",
        f"the law misses these settings by {misses.median():.1%} in the median, "
        f"{misses.max():.1%} at most",
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
        Column("value", True, [_short(constant.value) for constant in constants]),
        Column("95 %", True, [_range(constant, _short) for constant in constants]),
        Column("N of all parameters", True, list(map(_short, of_all))),
    ]

    def draw() -> Iterator[tuple[str, Chart]]:
        from lmlab.sweeps.figures import law_charts

        yield "scaling-by-compute", law_charts.by_compute(scaling)
        yield "scaling-by-size", law_charts.by_size(scaling)

    files = {SCALING_CSV: points.assign(fitted=fitted), SCALING_JSON: _as_json(scaling)}
    return Section(FORMULA, columns, [*notes, *scaling.remarks], files=lambda: files, draw=draw)


def _budgets(scaling: Scaling) -> Section:
    optima = scaling.optima()
    columns = [Column("operations", True, [power(best.compute) for best in optima])]
    for title, text, intervals in (
        ("N*", amount, [best.parameters for best in optima]),
        ("D*", amount, [best.tokens for best in optima]),
        ("loss", _loss, [best.loss for best in optima]),
    ):
        columns.append(Column(title, True, [text(interval.value) for interval in intervals]))
        columns.append(Column("95 %", True, [_range(interval, text) for interval in intervals]))
    ratios = [best.tokens.value / best.parameters.value for best in optima]
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
    misses = [point["predicted"] / point["loss"] - 1 for _, point in rows]
    columns = [
        Column("left out", False, [held.what for held, _ in rows]),
        Column("N", True, [amount(point["parameters"]) for _, point in rows]),
        Column("D", True, [amount(point["tokens"]) for _, point in rows]),
        Column("predicted", True, [f"{point['predicted']:.4f}" for _, point in rows]),
        Column("measured", True, [f"{point['loss']:.4f}" for _, point in rows]),
        Column("miss", True, [f"{miss:+.1%}" for miss in misses]),
    ]
    notes = ["predicted by a law of the settings that are left"]
    return Section("what the law had not seen", columns, notes)


def _short(number: float) -> str:
    return f"{number:.4g}" if number < 9999.5 else power(number)


def _loss(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.3f}"


def _range(interval: Interval, text: Callable[[float], str]) -> str:
    if math.isnan(interval.low):
        return ""
    return f"{text(interval.low)} to {text(interval.high)}"


def _as_json(scaling: Scaling) -> dict[str, Any]:
    """The law with its intervals, the optima, and what was held out, in full precision."""

    def plain(interval: Interval) -> dict[str, float | None]:
        values = vars(interval).items()
        return {name: value if math.isfinite(value) else None for name, value in values}

    def settings(points: pd.DataFrame) -> list[dict[str, Any]]:
        return points[["parameters", "tokens", "loss", "predicted"]].to_dict("records")

    return {
        "formula": FORMULA,
        "metric": scaling.metric,
        "settings": len(scaling.points),
        "runs": int(scaling.points["n"].sum()),
        "law": {name: plain(scaling.constant(name)) for name in CONSTANTS},
        "law_of_all_parameters": vars(scaling.of_all_parameters),
        "optimal": [
            {
                "operations": best.compute,
                "parameters": plain(best.parameters),
                "tokens": plain(best.tokens),
                "loss": plain(best.loss),
            }
            for best in scaling.optima()
        ],
        "held_out": [
            {"left_out": held.what, "law": vars(held.law), "settings": settings(held.points)}
            for held in scaling.held_out
        ],
        "remarks": scaling.remarks,
    }
