"""How figures and settings are written, in a table, a figure or a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from lmlab.sweeps.table.settings import Table
from lmlab.sweeps.table.values import WIDEST, heading, is_missing, label


def figure(mean: float, deviation: float = math.nan) -> str:
    """`2.4013 ± 0.0021`; the mean alone if there is no deviation."""
    digits = ".4f" if abs(mean) < 1e5 else ".4g"
    return f"{mean:{digits}}" + ("" if math.isnan(deviation) else f" ± {deviation:{digits}}")


def duration(seconds: float) -> str:
    """`12.3 s`, `4 min 05 s`, `2 h 05 min`; nothing for NaN."""
    if math.isnan(seconds):
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def count(n: float) -> str:
    """`2,304,000`; nothing for NaN."""
    return "" if math.isnan(n) else f"{round(n):,}"


def amount(number: float) -> str:
    """A count to three digits: `950`, `49.4k`, `1.77M`, `16.9M`."""
    if math.isnan(number):
        return ""
    for power_of_ten, unit in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 0.9995 * 10**power_of_ten:
            return f"{_three_digits(number / 10**power_of_ten)}{unit}"
    return _three_digits(number)


def _three_digits(number: float) -> str:
    return f"{number:.3g}" if number < 999.5 else f"{number:.0f}"


def power(number: float) -> str:
    """A budget as it is typed: `2e12`."""
    return f"{number:.2g}".replace("e+", "e")


def setting_names(
    settings: pd.DataFrame, keys: Sequence[str], width: int | None = WIDEST
) -> list[str]:
    """The settings by their values alone, beside the keys as a heading: `head, 0.01`."""
    values = settings[list(keys)].itertuples(index=False, name=None)
    return [
        ", ".join(label(*pair, width) for pair in zip(keys, row, strict=True)) for row in values
    ]


def name_of(table: Table, setting: int) -> str:
    """A setting in a sentence: `model=head, optimizer.lr=0.01`."""
    values = table.settings.loc[setting, table.keys].items()
    named = [f"{heading(k)}={label(k, value)}" for k, value in values if not is_missing(value)]
    return ", ".join(named) or "the only setting"


def what_is_counted(records: Iterable[dict[str, Any]]) -> list[str]:
    """What steps, tokens, FLOPs and seconds are, where some runs have more than their own."""
    lines = []
    records = list(records)
    if any(record.get("before") for record in records):
        lines.append(
            "runs that began from another's checkpoint: steps, tokens, FLOPs and time are those of "
            "the other up to there, at its own costs, and theirs"
        )
    if any(record.get("teacher_flops") for record in records):
        lines.append("FLOPs: those of teachers' forward passes are among them")
    return lines
