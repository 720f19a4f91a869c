"""What differences say: a table, and in words which settings cannot be told from the baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from lmlab.files import path_name
from lmlab.sweeps.compare.differences import Differences
from lmlab.sweeps.compare.paired import LEVEL, MOST_PAIRS
from lmlab.sweeps.kept import DIFFERENCES_CSV
from lmlab.sweeps.report.sections import Column, Section, exact, key_columns
from lmlab.sweeps.table.settings import count_by_status
from lmlab.sweeps.table.values import shown
from lmlab.sweeps.table.words import name_of

if TYPE_CHECKING:
    from lmlab.sweeps.figures.charts import Chart

DIGITS = {"steps": ",.0f", "tokens": ",.0f", "FLOPs": ",.0f", "seconds": ",.3f"}


def verdicts(compared: Differences, legend: bool = True) -> Section:
    """How each setting differs from the baseline; with `legend` the notes say what a column is."""
    title, baseline = compared.quantity, compared.baseline
    if baseline is not None:
        title += f", compared with {name_of(compared.table, baseline)}"
    return Section(
        title,
        _columns(compared),
        notes_on(compared, legend),
        best=None if baseline is None else int(compared.settings.index.get_loc(baseline)),
        files=lambda: {DIFFERENCES_CSV: _rows(compared)},
        draw=partial(_figures_of, compared),
    )


def _figures_of(compared: Differences) -> Iterator[tuple[str, Chart]]:
    if compared.tested.any():
        from lmlab.sweeps.figures.forest import forest

        name = f"difference-{path_name(compared.quantity)}"
        yield name, forest(compared, figures(compared))


def marks(compared: Differences) -> dict[int, str]:
    """A sign for each setting that cannot be told from the best: ≈, or ? where nothing was tested.

    None, if nothing at all was tested.
    """
    if not compared.tested.any():
        return {}
    rows = compared.settings
    untold = rows.index[rows["value"].notna() & ~compared.told & ~compared.off_scale]
    untold = untold.drop(compared.baseline)
    return {setting: "≈" if compared.tested[setting] else "?" for setting in untold}


def notes_on_marks(compared: Differences) -> list[str]:
    """What the signs mean, or why there are none; nothing where there is nothing to compare."""
    rows = compared.compared
    rows = rows[rows["value"].notna()]
    if rows.empty or compared.baseline is None:
        return []
    if not compared.tested.any():
        return [
            "whether a difference is more than the noise of seeds cannot be told: no setting "
            "shares two seeds or more with the best (seed=1,2,3 trains each with three)"
        ]
    signs = set(marks(compared).values())
    n = int(compared.tested.sum())
    test = f"paired by seed, t-test, Holm's correction for {n}, p < {LEVEL}"
    lines = []
    if "≈" in signs:
        lines.append(f"≈: cannot be told from the best by these seeds ({test})")
    if "?" in signs:
        lines.append("?: shares fewer than two seeds with the best, so nothing can be told")
    lost = ", or off the scale" if (compared.off_scale & ~compared.told).any() else ""
    return lines or [f"every other setting is told from the best{lost} ({test})"]


def notes_on(compared: Differences, legend: bool = True) -> list[str]:
    """What was compared and what was left out, a line each; with `legend` what each column is."""
    n = int(compared.tested.sum())
    if compared.baseline is None or not compared.settings["pairs"].any():
        return [*_left_out(compared), *compared.remarks]
    base = name_of(compared.table, compared.baseline)
    picked = "" if compared.is_named else " (the best of them)"
    correction = f"; p is corrected for {n} rows" if n > 1 else ""
    lines = [
        f"difference: {compared.quantity} minus that of {base}{picked}, {compared.unit}, mean over "
        f"the seeds in common; below zero is better{correction}"
    ]
    if legend and n:
        least = compared.least
        size = "as large as the one seen" if least is None else f"of {shown(least)}"
        level = f"{LEVEL} / {n}" if n > 1 else f"{LEVEL}"
        lines += [
            "95 %: Student's t interval of the row alone; p: paired t-test, Holm's correction; "
            f"≈: not told apart, p ≥ {LEVEL}",
            "r: correlation of the paired runs; the nearer to 1, the more noise pairing removes",
            f"more seeds: to tell a difference {size} with 80 % power at level {level}, if the "
            "spread is what it is here",
        ]
        if not compared.is_named and n > 1:
            lines.append(
                "the best was picked by these same runs, which flatters it; a --baseline named "
                "before the sweep is a fairer one"
            )
    return [*lines, *_left_out(compared), *compared.remarks]


def _left_out(compared: Differences) -> list[str]:
    table, rows = compared.table, compared.compared
    runs = table.runs[table.runs["setting"].isin(compared.settings.index)]
    lines = []
    if bad := list(runs["status"][(runs["status"] != "done") & ~runs["diverged"]]):
        lines.append(f"left out: {count_by_status(bad)}")
    pairs = rows["pairs"][compared.tested[rows.index]]
    has = runs[runs["counted"] | runs["diverged"]].groupby("setting").size()
    if len(pairs) and (has[[*pairs.index, compared.baseline]] > pairs.min()).any():
        lines.append("seeds: only those count that a setting and the baseline both have")
    return lines


def _columns(compared: Differences) -> list[Column]:
    rows, texts = compared.settings, figures(compared)
    verdict = rows["why"].mask(compared.tested & ~compared.told, "≈")
    verdict = verdict.mask(compared.off_scale & ~compared.told, "off the scale")
    if compared.baseline is not None:
        why = rows["why"][compared.baseline]
        verdict[compared.baseline] = "the baseline" + (f": {why}" if why else "")
    correlations = ["" if math.isnan(r) else f"{r:.2f}" for r in rows["r"]]
    return [
        *key_columns(compared.table, compared.table.settings.loc[rows.index]),
        Column(compared.quantity, True, list(texts["value"]), _tuples(rows, "value", "value sd")),
        Column("difference", True, list(texts["difference"]), list(rows["difference"])),
        Column("", False, list(verdict)),
        Column("95 %", True, list(texts["95 %"]), _tuples(rows, "low", "high")),
        Column("p", True, list(texts["p"]), list(rows["p holm"])),
        Column("seeds", True, [str(n) if n else "" for n in rows["pairs"]]),
        Column("r", True, correlations, list(rows["r"])),
        Column("more seeds", True, _more_seeds(compared)),
    ]


def _tuples(rows: pd.DataFrame, *columns: str) -> list[tuple[float, ...]]:
    return list(rows[list(columns)].itertuples(index=False, name=None))


def figures(compared: Differences) -> pd.DataFrame:
    """Value, difference, interval and corrected p as texts, by setting; empty for NaN."""
    digits = DIGITS.get(compared.unit, ".4f")

    def text(number: float, sign: str = "") -> str:
        size = abs(number)
        return f"{number:{sign}{digits if size < 100 else ',.0f' if size < 1e7 else '.4g'}}"

    rows = []
    for _, row in compared.settings.iterrows():
        value, deviation, low = row["value"], row["value sd"], row["low"]
        spread = "" if math.isnan(deviation) else f" ± {text(deviation)}"
        rows.append(
            {
                "value": "" if math.isnan(value) else text(value) + spread,
                "difference": "" if math.isnan(row["difference"]) else text(row["difference"], "+"),
                "95 %": "" if math.isnan(low) else f"{text(low, '+')} to {text(row['high'], '+')}",
                "p": _probability(row["p holm"]),
            }
        )
    return pd.DataFrame(rows, index=compared.settings.index)


def _probability(p: float) -> str:
    return "" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _more_seeds(compared: Differences) -> list[str]:
    """Beyond those that there are; for a difference that is told already nothing more is asked."""
    cells = []
    for setting, row in compared.settings.iterrows():
        asks_nothing = compared.least is None and (compared.told[setting] or row["difference"] == 0)
        if not compared.tested[setting] or asks_nothing:
            cells.append("")
        elif pd.isna(row["needed"]):
            cells.append(f">{MOST_PAIRS:,}")
        else:
            cells.append(f"{max(0, int(row['needed']) - int(row['pairs'])):,}")
    return cells


def _rows(compared: Differences) -> pd.DataFrame:
    """For a CSV file: a row per setting, figures in full precision; below zero is better."""
    table, rows, base = compared.table, compared.settings, compared.baseline
    about = pd.DataFrame(index=rows.index)
    about["quantity"], about["unit"] = compared.quantity, compared.unit
    about["baseline"] = "" if base is None else name_of(table, base)
    keys = table.settings.loc[rows.index, table.keys].map(exact)
    taken = {*about.columns, *rows.columns}
    keys = keys.rename(columns=lambda key: f"{key} (key)" if key in taken else key)
    return pd.concat([about, keys, rows], axis=1)
