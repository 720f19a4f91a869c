"""The rows of the table of records: kept in a CSV, shown in Markdown."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from lmlab.errors import LabError
from lmlab.files import write_atomically
from lmlab.sweeps.compare.paired import paired
from lmlab.sweeps.records.rulebook import BUDGETS, LEVEL, SEEDS, budget_named

BEGIN, END = "<!-- the rows of records.csv -->", "<!-- end of the rows -->"


class Row(BaseModel):
    """A recipe's seeds, from 1 on, and what is needed to repeat them.

    Losses are nats per character of all of val; seconds are of each seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    budget: str
    recipe: str  # the words it is asked for by
    fingerprint: str
    commit: str
    losses: tuple[float, ...]
    mean: float
    against: str  # the fingerprint of the record that stood; empty: there was none
    p: float | None  # of a paired t-test against it
    is_record: bool
    cpu_seconds: tuple[float, ...]
    wall_seconds: tuple[float, ...]
    threads: int
    processor: str
    python: str
    torch: str
    lmlab: str
    date: str

    @field_validator("losses", "cpu_seconds", "wall_seconds", mode="before")
    @classmethod
    def separated(cls, value: object) -> object:
        return value.split() if isinstance(value, str) else value

    @field_validator("p", mode="before")
    @classmethod
    def unless_empty(cls, value: object) -> object:
        return None if value == "" else value

    def cells(self) -> dict[str, str]:
        """As the CSV has it."""
        return {name: _cell(value) for name, value in self}

    @property
    def command(self) -> str:
        """What repeats it."""
        n_seeds = "" if len(self.losses) == SEEDS else f"--seeds {len(self.losses)} "
        threads = "" if self.threads == 1 else f"--threads {self.threads} "
        return f"python scripts/records.py {n_seeds}{threads}{self.budget} {self.recipe}"


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def judged(row: Row, before: Sequence[Row]) -> Row:
    """The row with its mean, and how it compares with the record of its budget that stood before.

    The first row of a budget is its record.
    """
    standing = standing_record(before, row.budget)
    mean = round(statistics.fmean(row.losses), 4)
    if standing is None:
        return row.model_copy(update={"mean": mean, "against": "", "p": None, "is_record": True})
    n = min(len(row.losses), len(standing.losses))
    test = paired(row.losses[:n], standing.losses[:n])
    return row.model_copy(
        update={
            "mean": mean,
            "against": standing.fingerprint,
            "p": float(f"{test.p:.2g}"),
            "is_record": test.mean < 0 and test.p < LEVEL,
        }
    )


def standing_record(rows: Sequence[Row], budget: str) -> Row | None:
    """The last record of a budget."""
    return next((row for row in reversed(rows) if row.budget == budget and row.is_record), None)


def check_new(rows: Sequence[Row], budget: str, fingerprint: str) -> None:
    """Whether a recipe has no row yet: seeds that may be thrown again exclude no luck.

    Raises:
        LabError: if it has.
    """
    for row in rows:
        if (row.budget, row.fingerprint) == (budget, fingerprint):
            raise LabError(f"{row.recipe}: has its row for {budget} already, mean {row.mean:.4f}")


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV, the oldest first; none if it is not there.

    Raises:
        LabError: if one does not follow from its own numbers, or breaks a rule.
    """
    if not path.is_file():
        return []
    rows: list[Row] = []
    with path.open(encoding="utf-8", newline="") as lines:
        for number, cells in enumerate(csv.DictReader(lines), 1):
            try:
                row = Row.model_validate(cells)
            except ValidationError as error:
                first = error.errors()[0]
                raise LabError(
                    f"{path}, row {number}: {first['loc'][0]}={first['input']!r}: {first['msg']}"
                ) from error
            _check_row(row, rows, f"{path}, row {number}")
            rows.append(row)
    return rows


def _check_row(row: Row, before: Sequence[Row], place: str) -> None:
    limit = budget_named(row.budget).cpu_seconds
    if len(row.losses) < SEEDS or len(row.losses) != len(row.cpu_seconds):
        raise LabError(f"{place}: {len(row.losses)} seeds; a row has {SEEDS} or more")
    if (most := max(row.cpu_seconds)) > limit:
        raise LabError(f"{place}: a seed took {most} of {limit} seconds of processor time")
    if (right := judged(row, before)) != row:
        wrong = [name for name, value in row if value != getattr(right, name)]
        raise LabError(f"{place}: {', '.join(wrong)} does not follow from its losses")
    check_new(before, row.budget, row.fingerprint)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the CSV."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(Row.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.cells() for row in rows)
    write_atomically(path, lines.getvalue().encode())


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown, by budget, the lowest first; a standing record is bold."""
    head = [
        "| processor time | recipe | commit | val/loss_full by seed | mean | p | "
        "processor, by the clock |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    lines = []
    for budget in BUDGETS.values():
        of_budget = [row for row in rows if row.budget == budget.name]
        standing = standing_record(rows, budget.name)
        for row in sorted(of_budget, key=lambda row: row.mean):
            bold = "**" if row is standing else ""
            losses = ", ".join(f"{loss:.4f}" for loss in row.losses)
            cells = [
                f"{budget.cpu_seconds:,} s",
                f"`{row.recipe}`",
                row.commit[:8],
                losses,
                f"{bold}{row.mean:.4f}{bold}",
                "" if row.p is None else f"{row.p:.2g}",
                f"{max(row.cpu_seconds):,.1f} s, {max(row.wall_seconds):,.1f} s",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*head, *lines])


def show_in(page: Path, rows: Sequence[Row]) -> None:
    """Put the table where a page has its place.

    Raises:
        LabError: if it has none.
    """
    text = page.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise LabError(f"{page} has no lines {BEGIN} and {END}")
    write_atomically(page, f"{before}{BEGIN}\n{table(rows)}\n{END}{after}".encode())
