"""A table of runs to read: in a terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column
from rich.table import Table as Grid
from rich.text import Text

from lmlab.runs import LOG
from lmlab.sweeps.table import (
    COMPUTED_ON,
    ENDED_BADLY,
    METRICS,
    MISSING,
    Group,
    Mean,
    Row,
    Table,
    canonical,
    counted,
    shown,
)

EDITED = {  # a column of what no config says
    "corpus_sha256": "corpus_sha256: runs of one config have read different texts, the file was "
    "edited between them; they are not folded",
    "code": "code: runs of one config were trained with different code of your own (run.json has "
    "the hash of each module); they are not folded",
}
WIDEST = 40  # characters of a value in a terminal or a picture; files have it whole
MOST_ROWS = 50  # in a terminal; files and pipes have all


@dataclass(frozen=True)
class Field:
    """A column of the leaderboard."""

    heading: str
    is_number: bool
    cell: Callable[[Group], str]


def heading(key: str) -> str:
    """What a column of keys is called: `model` for model._target_."""
    return key.removesuffix("._target_")


def label(key: str, value: Any, width: int | None = WIDEST) -> str:
    """A value of a column: the class alone for a _target_."""
    if value is MISSING:
        return "-"
    if key.endswith("_target_"):
        value = str(value).rpartition(".")[2]
    return shown(value, width)


def name(group: Group, but: Iterable[str] = ()) -> str:
    """A group by its values: `model=head, optimizer.lr=0.1`, without the keys that are the same."""
    told = [
        f"{heading(key)}={label(key, value)}"
        for key, value in group.values.items()
        if key not in but and value is not MISSING
    ]
    return ", ".join(told)


def figure(mean: Mean | None) -> str:
    """`2.4013 ± 0.0021`, or nothing."""
    if mean is None:
        return ""
    digits = ".4f" if abs(mean.mean) < 1e5 else ".4g"
    deviation = "" if mean.deviation is None else f" ± {mean.deviation:{digits}}"
    return f"{mean.mean:{digits}}{deviation}"


def duration(seconds: float | None) -> str:
    """`12.3 s`, `4 min 05 s`, `2 h 05 min`."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def fields(table: Table, folder: Path | None) -> list[Field]:
    """What to show of a table: what varies, what came out, where it is kept below `folder`."""

    def key_field(key: str) -> Field:
        values = [group.values[key] for group in table.groups]
        is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        return Field(heading(key), is_number, lambda group: label(key, group.values[key]))

    def whole(quantity: str) -> Callable[[Group], str]:
        def cell(group: Group) -> str:
            value = group.average(quantity)
            return "" if value is None else f"{round(value):,}"

        return cell

    found = [key_field(key) for key in table.columns]
    if _varies(table, "parameters"):
        found.append(Field("parameters", True, whole("parameters")))
    for metric in dict.fromkeys((table.metric, "val/loss_full", "best")):
        found.append(
            Field(METRICS[metric].name, True, lambda group, m=metric: figure(group.mean(m)))  # type: ignore[misc]
        )
    if any(row.seconds is not None for row in table.rows):
        found.append(Field("time", True, lambda group: duration(group.average("seconds"))))
    if _varies(table, "step"):
        found.append(Field("steps", True, whole("step")))
    found.append(Field("status", False, lambda group: group.status))
    folded = any(len(group.rows) > 1 for group in table.groups)
    found.append(
        Field(
            "directory of the best" if folded else "directory",
            False,
            lambda group: below(group.best_row(table.metric).path, folder),
        )
    )
    return found


def _varies(table: Table, quantity: str) -> bool:
    """Whether runs differ in it; those that are done, if any is."""
    rows = [row for row in table.rows if row.status == "done"] or table.rows
    return len({getattr(row, quantity) for row in rows}) > 1


def below(path: Path, folder: Path | None) -> str:
    """A path as seen from a folder, if it lies in it."""
    if folder is not None and path.resolve().is_relative_to(folder.resolve()):
        return os.path.relpath(path, folder)
    return str(path)


def heads(table: Table) -> str:
    """`12 runs: 11 done, 1 failed; 4 settings`."""
    n = len(table.rows)
    folded = f"; {len(table.groups)} settings" if len(table.groups) < n else ""
    return f"{n} {'run' if n == 1 else 'runs'}: {counted(table.rows)}{folded}"


def notes(table: Table) -> list[str]:
    """What each figure is: unit, split, which tokens, over which seeds."""
    protocol = {"full": _full_pass(table.rows), "evals": _evaluations(table.rows)}
    said = [
        f"{METRICS[m].name}: {METRICS[m].unit}, {METRICS[m].protocol.format(**protocol)}"
        for m in dict.fromkeys((table.metric, "val/loss_full", "best"))
    ]
    folded = [group for group in table.groups if len(group.counted) > 1]
    if folded:
        seeds = {canonical(sorted(map(shown, group.seeds))) for group in folded}
        which = f"seeds {', '.join(map(shown, folded[0].seeds))}" if len(seeds) == 1 else "seeds"
        said.append(f"±: mean and standard deviation (n - 1) over the {which} that are done")
    repeated = sum(
        sum(row.status == "done" for row in group.rows) - len(group.counted)
        for group in table.groups
    )
    if repeated:
        said.append(f"{repeated} done before with the same seed: only the newest of each counts")
    said += [EDITED[key] for key in table.columns if key in EDITED]
    done = [row for row in table.rows if row.status == "done"]
    said += _machines(done)
    amounts = [
        f"{getattr(done[0], quantity):,} {words}"
        for quantity, words in (("step", "steps"), ("tokens", "tokens"))
        if done and getattr(done[0], quantity) is not None and not _varies(table, quantity)
    ]
    if amounts:
        said.append(f"each run: {', '.join(amounts)} of training")
    return said


def _machines(rows: list[Row]) -> list[str]:
    """What the runs were computed on, where it is not the same for all."""
    said = []
    for key in COMPUTED_ON:
        found = {shown(on[key]) for row in rows for on in row.computed_on if key in on}
        if len(found) > 1:
            said.append(
                f"{key}: {', '.join(sorted(found))} among these runs, so their last digits may "
                "differ for that alone"
            )
    return said


def _agreed(rows: list[Row], keys: Sequence[str]) -> list[Any] | None:
    """The values of some keys, if all readable configs have the same."""
    configs = [row.config for row in rows if row.config is not None]
    found = {canonical([c.get(key) for key in keys]): [c.get(key) for key in keys] for c in configs}
    return next(iter(found.values())) if len(found) == 1 else None


def _full_pass(rows: list[Row]) -> str:
    agreed = _agreed(rows, ("data.block_size", "eval.stride"))
    windows = "data.block_size and eval.stride of each run"
    if agreed is not None:
        windows = f"windows of {agreed[0]} tokens {agreed[1] or agreed[0]} apart"
    return f"every token of val but the first predicted once ({windows})"


def _evaluations(rows: list[Row]) -> str:
    agreed = _agreed(rows, ("eval.protocol", "eval.iters", "data.batch_size", "data.block_size"))
    if agreed is None:
        return "on tokens of val as each run's eval and data say"
    protocol, iters, batch_size, block_size = agreed
    if protocol == "full":
        return "each a full pass over val"
    return f"each {iters} random batches of {batch_size} × {block_size} tokens of val"


def print_table(table: Table, console: Console, title: str, by: Sequence[str] = ()) -> None:
    """The leaderboard; with `by`, only the best setting for each value of those keys.

    In a pipe it is as wide as it needs to be; in a narrow terminal the directories come below.
    """
    groups = best_of_each(table, by)
    most = MOST_ROWS if console.is_terminal else len(groups)
    told, left_out = groups[:most], len(groups) - most
    columns = fields(table, None)
    apart = console.is_terminal and _width(console, _grid(columns, told)) > console.width
    if apart:
        columns, directory = columns[:-1], columns[-1]
    width = _width(console, _grid(columns, told))
    if console.is_terminal:  # long values are folded as far as need be, figures never
        width = min(width, max(console.width, _width(console, _grid(columns, told, at_most=12))))
    wide = Console(file=console.file, width=width, highlight=False)
    console.print(Text(f"{title}  {heads(table)}"))
    wide.print(_grid(columns, told, best=table.best))
    if left_out > 0:
        console.print(Text(f"and {left_out} more, in the files"))
    for note in notes(table):
        console.print(Text(note, style="dim"))
    if apart:
        console.print(Text(f"\n{directory.heading}", style="dim"))
        for i, group in enumerate(told[:10], 1):
            console.print(Text(f"{i:>2}  {directory.cell(group)}"))
    bad = failures(table, None)
    for line in bad[: MOST_ROWS if console.is_terminal else None]:
        console.print(Text(line))
    if console.is_terminal and len(bad) > MOST_ROWS:
        console.print(Text("and more, in the files"))


def best_of_each(table: Table, by: Sequence[str]) -> list[Group]:
    """The groups; or, of those with the same values for the keys `by`, only the best."""
    first: dict[tuple[str, ...], Group] = {}
    for group in table.groups:
        first.setdefault(tuple(canonical(group.values[key]) for key in by), group)
    return list(first.values()) if by else table.groups


def _grid(
    columns: list[Field],
    groups: list[Group],
    best: Group | None = None,
    at_most: int | None = None,
) -> Grid:
    """The leaderboard for rich; words take at most so many characters a line."""
    grid = Grid(Column("#", justify="right", style="dim"), box=box.SIMPLE_HEAD, pad_edge=False)
    for field in columns:
        grid.add_column(
            Text(field.heading),
            justify="right" if field.is_number else "left",
            no_wrap=field.is_number,
            overflow="fold",
            max_width=None if field.is_number else at_most,
        )
    for i, group in enumerate(groups, 1):
        cells = [Text(field.cell(group)) for field in columns]
        grid.add_row(str(i), *cells, style="bold" if group is best else None)
    return grid


def _width(console: Console, grid: Grid) -> int:
    return Measurement.get(console, console.options.update_width(100_000), grid).maximum


def failures(table: Table, folder: Path | None) -> list[str]:
    """Each run that ended badly, with its reason and its log; each record that cannot be read."""
    lines: list[str] = []
    for row in table.rows:
        if row.status in ENDED_BADLY:
            lines.append(f"{row.status}  {below(row.path, folder)}")
            lines.append(f"    {row.error or 'it does not say why'}")
            if (row.path / LOG).is_file():
                lines.append(f"    log: {below(row.path / LOG, folder)}")
    return [*lines, *(f"unreadable  {what}" for what in table.unreadable)]


def markdown(table: Table, folder: Path, title: str, pictures: Sequence[str] = ()) -> str:
    """A page for GitHub: the leaderboard, what its figures are, failures, pictures."""
    columns = fields(table, folder)
    lines = [
        f"# {title}",
        "",
        heads(table) + ".",
        "",
        "| " + " | ".join(_escaped(field.heading) for field in columns) + " |",
        "|" + "|".join("---:" if field.is_number else "---" for field in columns) + "|",
    ]
    for group in table.groups:
        lines.append("| " + " | ".join(_escaped(field.cell(group)) for field in columns) + " |")
    lines += ["", *(f"- {_escaped(note)}" for note in notes(table))]
    bad = failures(table, folder)
    if bad:
        lines += ["", "```", *bad, "```"]
    for picture in pictures:
        lines += ["", f"![{Path(picture).stem}]({picture})"]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    for mark in "\\|`*<":
        text = text.replace(mark, f"\\{mark}")
    return text


def groups_csv(table: Table, folder: Path) -> str:
    """One row per setting, figures in full precision; n is how many seeds they are over."""
    lines = []
    for group in table.groups:
        line: dict[str, Any] = {key: _exact(value) for key, value in group.values.items()}
        line["n"] = len(group.counted)
        for metric in METRICS:
            mean = group.mean(metric)
            title = METRICS[metric].name
            line[title] = mean and mean.mean
            line[f"{title} sd"] = mean and mean.deviation
        for quantity in ("seconds", "step", "parameters", "tokens"):
            line[quantity] = group.average(quantity)
        line["status"] = group.status
        line["directory"] = below(group.best_row(table.metric).path, folder)
        lines.append(line)
    return _csv(lines)


def runs_csv(table: Table, folder: Path) -> str:
    """One row per run, in the order of the leaderboard."""
    lines = []
    for row in (row for group in table.groups for row in group.rows):
        line: dict[str, Any] = {key: _exact(row.value(key)) for key in table.columns}
        line["seed"] = _exact(row.seed)
        line |= {METRICS[metric].name: METRICS[metric].read(row) for metric in METRICS}
        line |= {q: getattr(row, q) for q in ("seconds", "step", "parameters", "tokens", "status")}
        line["error"] = row.error
        line["directory"] = below(row.path, folder)
        lines.append(line)
    return _csv(lines)


def _exact(value: Any) -> Any:
    if value is MISSING:
        return None
    return value if isinstance(value, str | float) else shown(value)


def _csv(lines: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
