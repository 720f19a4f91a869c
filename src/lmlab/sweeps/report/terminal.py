"""Sections in a terminal, or in a pipe, where a table is as wide as it needs to be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column as GridColumn
from rich.table import Table as Grid
from rich.text import Text

from lmlab.console import make_console
from lmlab.sweeps.report.sections import Column, Section

MOST_ROWS = 50  # in a terminal; files and pipes have all
NARROW = 12  # characters that a text is folded at, at the least
WIDE = 100_000
ORDERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal would do, not show


def print_sections(title: str, sections: Iterable[Section], console: Console) -> list[Section]:
    """Print each section as it comes; the first stands beside the title. All of them."""
    printed: list[Section] = []
    for section in sections:
        console.print(_text(f"\n{section.title}" if printed else f"{title}  {section.title}"))
        _print(section, console)
        printed.append(section)
    return printed


def _print(section: Section, console: Console) -> None:
    """The table, its notes and lines. A terminal gets at most MOST_ROWS rows, and the last column
    of a wide table below it where it is too narrow for it; texts are folded as far as need be,
    figures never."""
    columns, width = section.columns, WIDE
    n = len(columns[0].cells)
    n_rows = min(n, MOST_ROWS) if console.is_terminal else n
    is_narrow = console.is_terminal and section.is_wide
    is_narrow = is_narrow and _natural_width(console, _grid(columns, n_rows)) > console.width
    if is_narrow:
        *columns, aside = columns
    if console.is_terminal:
        folded = _grid(columns, n_rows, text_width=NARROW)
        width = max(console.width, _natural_width(console, folded))
    make_console(file=console.file, width=width).print(_grid(columns, n_rows, section.best))
    if n_rows < n:
        console.print(_text(f"and {n - n_rows} more, in the files"))
    for note in section.notes:
        console.print(_text(note, style="dim"))
    if is_narrow:
        console.print(_text(f"\n{aside.heading}", style="dim"))
        for place, cell in enumerate(aside.cells[: min(n_rows, 10)], 1):
            console.print(_text(f"{place:>2}  {cell}"))
    for line in section.lines[: MOST_ROWS if console.is_terminal else None]:
        console.print(_text(line))
    if console.is_terminal and len(section.lines) > MOST_ROWS:
        console.print(_text("and more, in the files"))


def _grid(
    columns: Sequence[Column], n_rows: int, best: int | None = None, text_width: int | None = None
) -> Grid:
    """The first rows for rich; texts are folded at `text_width` characters."""
    grid = Grid(GridColumn("#", justify="right", style="dim"), box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(
            _text(column.heading),
            justify="right" if column.is_number else "left",
            no_wrap=column.is_number,
            overflow="fold",
            max_width=None if column.is_number else text_width,
        )
    for row in range(n_rows):
        cells = [_text(column.cells[row]) for column in columns]
        grid.add_row(str(row + 1), *cells, style="bold" if row == best else None)
    return grid


def _text(text: str, style: str = "") -> Text:
    """What runs say, as it can be shown."""
    return Text(ORDERS.sub("�", text), style=style)


def _natural_width(console: Console, grid: Grid) -> int:
    """How wide a table is that folds nothing it need not."""
    return Measurement.get(console, console.options.update_width(WIDE), grid).maximum
