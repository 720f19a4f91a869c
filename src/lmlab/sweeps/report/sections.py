"""How a table of settings is laid out: columns of text, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column as GridColumn
from rich.table import Table as Grid
from rich.text import Text

from lmlab.sweeps.table.settings import Table
from lmlab.sweeps.table.values import heading, is_missing, is_number, label, shown

MOST_ROWS = 50  # in a terminal; files and pipes have all


@dataclass(frozen=True)
class Column:
    """A column of a table, with a cell for each setting."""

    heading: str
    is_number: bool
    cells: list[str]


@dataclass(frozen=True)
class Section:
    """A table of a report, with its title and what is to be known of it."""

    title: str
    columns: list[Column]
    notes: list[str]


def key_columns(table: Table, settings: pd.DataFrame) -> list[Column]:
    """The keys in which settings differ."""
    found = []
    for key in table.keys:
        cells = [label(key, value) for value in settings[key]]
        found.append(Column(heading(key), all(map(is_number, settings[key])), cells))
    return found


def grid_of(
    wanted: Sequence[Column],
    settings: Iterable[int],
    best: int | None = None,
    text_width: int | None = None,
) -> Grid:
    """The rows of some settings for rich; texts are folded at `text_width` characters."""
    grid = Grid(GridColumn("#", justify="right", style="dim"), box=box.SIMPLE_HEAD, pad_edge=False)
    for column in wanted:
        grid.add_column(
            Text(column.heading),
            justify="right" if column.is_number else "left",
            no_wrap=column.is_number,
            overflow="fold",
            max_width=None if column.is_number else text_width,
        )
    for place, setting in enumerate(settings, 1):
        cells = [Text(column.cells[setting - 1]) for column in wanted]
        grid.add_row(str(place), *cells, style="bold" if setting == best else None)
    return grid


def natural_width(console: Console, grid: Grid) -> int:
    """How wide a table is that folds nothing it need not."""
    return Measurement.get(console, console.options.update_width(100_000), grid).maximum


def markdown_table(wanted: Sequence[Column]) -> list[str]:
    """The lines of a table as GitHub reads it."""
    rows = [[column.heading for column in wanted], *zip(*(c.cells for c in wanted), strict=True)]
    lines = ["| " + " | ".join(map(escaped, row)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("---:" if c.is_number else "---" for c in wanted) + "|")
    return lines


def escaped(text: str) -> str:
    for mark in "\\|`*<":
        text = text.replace(mark, f"\\{mark}")
    return text


def exact(value: Any) -> Any:
    """A value as a CSV file has it: figures whole, nothing where a run has no such key."""
    if is_missing(value):
        return None
    return value if isinstance(value, str | float) else shown(value)
