"""What a search says: its best trial, and which of the keys mattered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from lmlab.sweeps.compare.trials import FEWEST, Trials, importances
from lmlab.sweeps.report.sections import Column, Section
from lmlab.sweeps.table.values import heading, is_number, label, ordered

if TYPE_CHECKING:
    from lmlab.sweeps.figures.charts import Chart


def search_section(trials: Trials) -> Section:
    """A row for each key, the one that mattered most first."""
    shares, runs, best = importances(trials), trials.runs, trials.best
    values = trials.values.loc[best.name]
    keys = [*shares.index, *(key for key in trials.keys if key not in shares.index)]
    known = [shares.get(key, float("nan")) for key in keys]
    columns = [
        Column("key", False, list(map(heading, keys)), list(map(heading, keys))),
        Column("of the best", False, [label(key, values[key]) for key in keys]),
        Column("tried", False, [_tried(trials.values[key], key) for key in keys]),
    ]
    if len(shares):
        texts = ["" if pd.isna(share) else f"{share:.2f}" for share in known]
        columns.insert(1, Column("importance", True, texts, known))
    n_pruned = int(runs["is_pruned"].sum())
    metric = trials.table.metric
    notes = [
        f"{len(runs)} trials have a loss; the best, number {best['number']}, has {metric} "
        f"{best['loss']:.4f}"
    ]
    if n_pruned:
        notes.append(f"{n_pruned} were pruned: their loss is the best that they had come to")
    if len(shares):
        notes.append(
            "importance: how much it takes to be among the best tenth of the trials; they add up "
            "to 1 (PED-ANOVA). Two keys that only matter together have little of it"
        )
    else:
        notes.append(f"importances want {FEWEST} trials or more")
    return Section("search", columns, notes, draw=partial(_figures_of, trials, shares))


def _tried(values: pd.Series, key: str) -> str:
    different = ordered(values)
    if all(map(is_number, different)) and len(different) > 4:
        return f"{label(key, different[0])} to {label(key, different[-1])}"
    some = [label(key, value) for value in different[:6]]
    return ", ".join([*some, "…"] if len(different) > 6 else some)


def _figures_of(trials: Trials, shares: pd.Series) -> Iterator[tuple[str, Chart]]:
    from lmlab.sweeps.figures import search_charts

    yield "search-history", search_charts.history(trials)
    if len(shares):
        yield "search-importances", search_charts.importances_chart(trials, shares)
    if len(trials.keys) > 1:
        yield "search-parallel", search_charts.parallel(trials)
