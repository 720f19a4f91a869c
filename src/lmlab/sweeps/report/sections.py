"""What a sweep says: sections, each a table with its notes, its figures and its rows for a file.

A terminal, Markdown, files of figures and a page each render them: see the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from lmlab.sweeps.table.settings import Table
from lmlab.sweeps.table.values import heading, is_missing, is_number, label, shown

if TYPE_CHECKING:
    from lmlab.sweeps.figures.charts import Chart


@dataclass(frozen=True)
class Column:
    """A column of a table, with a cell for each row."""

    heading: str
    is_number: bool
    cells: list[str]
    # What the cells say, in full: a figure, or several (mean and deviation, both ends of an
    # interval). A page sorts by it.
    values: Sequence[Any] | None = None


@dataclass(frozen=True)
class Section:
    """The answer to one question."""

    title: str
    columns: list[Column]
    notes: list[str]
    best: int | None = None  # a row to stand out, counted from 0
    is_wide: bool = False  # the last column may stand below the table in a narrow terminal
    lines: list[str] = field(default_factory=list)  # shown as they are: reasons and logs
    # By a file's name: rows in full precision for CSV, or what JSON holds. Those of several
    # sections under one name are one table.
    files: Callable[[], Mapping[str, pd.DataFrame | dict[str, Any]]] = dict
    draw: Callable[[], Iterable[tuple[str, Chart]]] = tuple  # by the name of a figure's file

    @cached_property
    def figures(self) -> dict[str, Chart]:
        if self.draw is tuple:
            return {}
        from lmlab.sweeps.figures.charts import unchecked  # here, for it imports altair

        with unchecked():
            return dict(self.draw())


def key_columns(table: Table, settings: pd.DataFrame) -> list[Column]:
    """The keys in which settings differ."""
    return [
        Column(
            heading(key),
            all(map(is_number, settings[key])),
            [label(key, value) for value in settings[key]],
            list(settings[key]),
        )
        for key in table.keys
    ]


def exact(value: Any) -> Any:
    """A value as a CSV file has it: figures whole, nothing where a run has no such key."""
    if is_missing(value):
        return None
    return value if isinstance(value, str | float) else shown(value)
