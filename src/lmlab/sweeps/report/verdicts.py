"""What differences say: as tables, and in words which settings cannot be told from the best."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.text import Text

from lmlab.console import make_console
from lmlab.sweeps.compare.differences import Differences, name_of
from lmlab.sweeps.compare.paired import LEVEL, MOST_PAIRS
from lmlab.sweeps.report.sections import (
    MOST_ROWS,
    Column,
    exact,
    grid_of,
    key_columns,
    natural_width,
)
from lmlab.sweeps.table.settings import count_by_status
from lmlab.sweeps.table.values import shown


def marks(found: Differences) -> dict[int, str]:
    """A sign for each setting that cannot be told from the best: ≈, or ? where nothing was tested.

    None, if nothing at all was tested.
    """
    if not found.tested.any():
        return {}
    rows = found.settings
    untold = rows.index[rows["value"].notna() & ~found.told & ~found.off_scale]
    untold = untold.drop(found.baseline)
    return {setting: "≈" if found.tested[setting] else "?" for setting in untold}


def notes_on_marks(found: Differences) -> list[str]:
    """What the signs mean, or why there are none; nothing where there is nothing to compare."""
    rows = found.compared
    rows = rows[rows["value"].notna()]
    if rows.empty or found.baseline is None:
        return []
    if not found.tested.any():
        return [
            "whether a difference is more than the noise of seeds cannot be told: no setting "
            "shares two seeds or more with the best (seed=1,2,3 trains each with three)"
        ]
    signs = set(marks(found).values())
    n = int(found.tested.sum())
    test = f"paired by seed, t-test, Holm's correction for {n}, p < {LEVEL}"
    lines = []
    if "≈" in signs:
        lines.append(f"≈: cannot be told from the best by these seeds ({test})")
    if "?" in signs:
        lines.append("?: shares fewer than two seeds with the best, so nothing can be told")
    lost = ", or off the scale" if (found.off_scale & ~found.told).any() else ""
    return lines or [f"every other setting is told from the best{lost} ({test})"]


def notes_on(found: Differences, legend: bool = True) -> list[str]:
    """What was compared and what was left out, a line each; with `legend` what each column is."""
    n = int(found.tested.sum())
    if found.baseline is None or not found.settings["pairs"].any():
        return [*_left_out(found), *found.remarks]
    base = name_of(found.table, found.baseline)
    picked = "" if found.is_named else " (the best of them)"
    correction = f"; p is corrected for {n} rows" if n > 1 else ""
    lines = [
        f"difference: {found.quantity} minus that of {base}{picked}, {found.unit}, mean over the "
        f"seeds in common; below zero is better{correction}"
    ]
    if legend and n:
        size = "as large as the one seen" if found.least is None else f"of {shown(found.least)}"
        level = f"{LEVEL} / {n}" if n > 1 else f"{LEVEL}"
        lines += [
            "95 %: Student's t interval of the row alone; p: paired t-test, Holm's correction; "
            f"≈: not told apart, p ≥ {LEVEL}",
            "r: correlation of the paired runs; the nearer to 1, the more noise pairing removes",
            f"more seeds: to tell a difference {size} with 80 % power at level {level}, if the "
            "spread is what it is here",
        ]
        if not found.is_named and n > 1:
            lines.append(
                "the best was picked by these same runs, which flatters it; a --baseline named "
                "before the sweep is a fairer one"
            )
    return [*lines, *_left_out(found), *found.remarks]


def _left_out(found: Differences) -> list[str]:
    table, rows = found.table, found.compared
    runs = table.runs[table.runs["setting"].isin(found.settings.index)]
    lines = []
    if bad := list(runs["status"][(runs["status"] != "done") & ~runs["diverged"]]):
        lines.append(f"left out: {count_by_status(bad)}")
    pairs = rows["pairs"][found.tested[rows.index]]
    has = runs[runs["counted"] | runs["diverged"]].groupby("setting").size()
    if len(pairs) and (has[[*pairs.index, found.baseline]] > pairs.min()).any():
        lines.append("seeds: only those count that a setting and the baseline both have")
    return lines


def print_differences(found: Differences, console: Console, legend: bool = True) -> None:
    """How each setting differs from the baseline; a terminal gets at most MOST_ROWS rows."""
    wanted = difference_columns(found)
    places = range(1, 1 + len(found.settings))
    rows = places[:MOST_ROWS] if console.is_terminal else places
    base = None if found.baseline is None else found.settings.index.get_loc(found.baseline) + 1
    grid = grid_of(wanted, rows, best=base)
    width = max(console.width, natural_width(console, grid_of(wanted, rows, text_width=12)))
    console.print(Text(f"\n{difference_title(found)}"))
    wide = width if console.is_terminal else 100_000
    make_console(file=console.file, width=wide).print(grid)
    if len(rows) < len(places):
        console.print(Text(f"and {len(places) - len(rows)} more, in the files"))
    for note in notes_on(found, legend):
        console.print(Text(note, style="dim"))


def difference_title(found: Differences) -> str:
    """`val/loss_full, compared with model=head`."""
    if found.baseline is None:
        return found.quantity
    return f"{found.quantity}, compared with {name_of(found.table, found.baseline)}"


def difference_columns(found: Differences) -> list[Column]:
    """The columns of a table of differences, in the order of `found.settings`."""
    rows, texts = found.settings, figures(found)
    verdict = rows["why"].mask(found.tested & ~found.told, "≈")
    verdict = verdict.mask(found.off_scale & ~found.told, "off the scale")
    if found.baseline is not None:
        why = rows["why"][found.baseline]
        verdict[found.baseline] = "the baseline" + (f": {why}" if why else "")
    return [
        *key_columns(found.table, found.table.settings.loc[rows.index]),
        Column(found.quantity, True, list(texts["value"])),
        Column("difference", True, list(texts["difference"])),
        Column("", False, list(verdict)),
        Column("95 %", True, list(texts["95 %"])),
        Column("p", True, list(texts["p"])),
        Column("seeds", True, [str(n) if n else "" for n in rows["pairs"]]),
        Column("r", True, ["" if math.isnan(r) else f"{r:.2f}" for r in rows["r"]]),
        Column("more seeds", True, _more_seeds(found)),
    ]


def figures(found: Differences) -> pd.DataFrame:
    """Value, difference, interval and corrected p as texts, by setting; empty for NaN."""
    digits = {"steps": ",.0f", "tokens": ",.0f", "FLOPs": ",.0f", "seconds": ",.3f"}.get(
        found.unit, ".4f"
    )

    def text(number: float, sign: str = "") -> str:
        size = abs(number)
        return f"{number:{sign}{digits if size < 100 else ',.0f' if size < 1e7 else '.4g'}}"

    rows = []
    for _, row in found.settings.iterrows():
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
    return pd.DataFrame(rows, index=found.settings.index)


def _probability(p: float) -> str:
    return "" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _more_seeds(found: Differences) -> list[str]:
    """Beyond those that there are; for a difference that is told already nothing more is asked."""
    cells = []
    for setting, row in found.settings.iterrows():
        asks_nothing = found.least is None and (found.told[setting] or row["difference"] == 0)
        if not found.tested[setting] or asks_nothing:
            cells.append("")
        elif pd.isna(row["needed"]):
            cells.append(f">{MOST_PAIRS:,}")
        else:
            cells.append(f"{max(0, int(row['needed']) - int(row['pairs'])):,}")
    return cells


def differences_csv(comparisons: Sequence[Differences]) -> str:
    """A row per setting and thing compared, figures in full precision; below zero is better."""
    frames = []
    for found in comparisons:
        rows = found.settings
        about = pd.DataFrame(index=rows.index)
        about["quantity"], about["unit"] = found.quantity, found.unit
        base = found.baseline
        about["baseline"] = "" if base is None else name_of(found.table, base)
        keys = found.table.settings.loc[rows.index, found.table.keys].map(exact)
        taken = {*about.columns, *rows.columns}
        keys = keys.rename(columns=lambda key, taken=taken: f"{key} (key)" if key in taken else key)
        frames.append(pd.concat([about, keys, rows], axis=1))
    return pd.concat(frames).to_csv(index=False, lineterminator="\n")
