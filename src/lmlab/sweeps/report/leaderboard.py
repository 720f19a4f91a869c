"""Tables of settings to read, and of their differences: in a terminal, as Markdown, as CSV."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.text import Text

from lmlab.console import make_console
from lmlab.runs.directory import LOG
from lmlab.sweeps.compare.differences import Differences, compare
from lmlab.sweeps.report.notes import notes
from lmlab.sweeps.report.sections import (
    MOST_ROWS,
    Column,
    Section,
    escaped,
    exact,
    grid_of,
    key_columns,
    markdown_table,
    natural_width,
)
from lmlab.sweeps.report.verdicts import (
    difference_columns,
    difference_title,
    marks,
    notes_on,
    notes_on_marks,
)
from lmlab.sweeps.table.settings import (
    BEST,
    LOSS,
    METRICS,
    RUN_COLUMNS,
    SETTING_COLUMNS,
    Table,
    count_by_status,
)
from lmlab.sweeps.table.values import canonical

ENDED_BADLY = ("failed", "killed", "interrupted")


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


def columns(table: Table, folder: Path | None, to_best: Differences) -> list[Column]:
    """What varies, what came out, and where the runs are, seen from `folder`."""
    settings = table.settings
    found = key_columns(table, settings)
    if table.varies("parameters"):
        found.append(Column("parameters", True, [_count(n) for n in settings["parameters"]]))
    for metric in dict.fromkeys((table.metric, LOSS, BEST)):
        found.append(Column(metric, True, _figures(settings, metric)))
        if metric == table.metric and (signs := marks(to_best)):
            found.append(Column("", False, [signs.get(place, "") for place in settings.index]))
    if settings["seconds"].notna().any():
        found.append(Column("time", True, [duration(s) for s in settings["seconds"]]))
    if table.varies("step"):
        found.append(Column("steps", True, [_count(n) for n in settings["step"]]))
    found.append(Column("status", False, list(settings["status"])))
    title = "directory of the best" if len(table.runs) > len(settings) else "directory"
    found.append(Column(title, False, [below(path, folder) for path in settings["directory"]]))
    return found


def _count(n: float) -> str:
    return "" if math.isnan(n) else f"{round(n):,}"


def _figures(settings: pd.DataFrame, metric: str) -> list[str]:
    """Means and deviations; a setting that diverged has `nan`, one without a result nothing."""
    cells = map(figure, settings[metric], settings[f"{metric} sd"])
    empty = settings[metric].isna() & ~_diverged(settings[metric], metric, _has_ended(settings))
    return ["" if is_empty else cell for cell, is_empty in zip(cells, empty, strict=True)]


def _has_ended(settings: pd.DataFrame) -> pd.Series:
    """The settings with a result: a seed is done, or diverged."""
    return (settings["n"] > 0) | (settings["diverged"] > 0)


def _diverged(values: pd.Series, metric: str, has_ended: pd.Series) -> pd.Series:
    """Where NaN is the result: a run that is done has a final loss, though perhaps no best one."""
    return values.isna() & has_ended & (metric != BEST)


def below(path: str | Path, folder: Path | None) -> str:
    """A path as seen from a folder, if it lies in it."""
    if folder is not None and Path(path).resolve().is_relative_to(folder.resolve()):
        return os.path.relpath(path, folder)
    return str(path)


def summary(table: Table) -> str:
    """`12 runs: 11 done, 1 failed; 4 settings`."""
    n, n_settings = len(table.runs), len(table.settings)
    settings = f"; {n_settings} settings" if n_settings < n else ""
    return f"{n} {'run' if n == 1 else 'runs'}: {count_by_status(table.runs['status'])}{settings}"


def print_table(table: Table, console: Console, title: str, by: Sequence[str] = ()) -> None:
    """The leaderboard; with `by`, only the best setting for each value of those keys.

    In a pipe it is as wide as it needs to be. A terminal gets at most MOST_ROWS rows, and the
    directories below the table where it is too narrow for them.
    """
    settings = best_of_each(table, by)
    to_best = compare(table, settings)
    rows = settings[:MOST_ROWS] if console.is_terminal else settings
    wanted, width = columns(table, None, to_best), 100_000
    directory = wanted[-1]
    natural = natural_width(console, grid_of(wanted, rows))
    is_narrow = console.is_terminal and natural > console.width
    if is_narrow:
        wanted = wanted[:-1]
    if console.is_terminal:  # texts are folded as far as need be, figures never
        width = max(console.width, natural_width(console, grid_of(wanted, rows, text_width=12)))
    console.print(Text(f"{title}  {summary(table)}"))
    wide = make_console(file=console.file, width=width)
    wide.print(grid_of(wanted, rows, best=table.best))
    if len(rows) < len(settings):
        console.print(Text(f"and {len(settings) - len(rows)} more, in the files"))
    for note in [*notes(table), *notes_on_marks(to_best)]:
        console.print(Text(note, style="dim"))
    if is_narrow:
        console.print(Text(f"\n{directory.heading}", style="dim"))
        for place, setting in enumerate(rows[:10], 1):
            console.print(Text(f"{place:>2}  {directory.cells[setting - 1]}"))
    bad = failures(table, None)
    for line in bad[: MOST_ROWS if console.is_terminal else None]:
        console.print(Text(line))
    if console.is_terminal and len(bad) > MOST_ROWS:
        console.print(Text("and more, in the files"))


def best_of_each(table: Table, by: Sequence[str]) -> list[int]:
    """The settings; of those with the same values for the keys `by`, only the best."""
    values = table.settings[list(by)].map(canonical)
    return list(values.drop_duplicates().index if by else values.index)


def failures(table: Table, folder: Path | None) -> list[str]:
    """Each run that ended badly, with its reason and its log; each record that cannot be read."""
    bad = table.runs[table.runs["status"].isin(ENDED_BADLY)].sort_index()
    lines = []
    for status, error, directory in bad[["status", "error", "directory"]].itertuples(index=False):
        lines.append(f"{status}  {below(directory, folder)}")
        lines.append(f"    {error or 'no reason is recorded'}")
        if (log := Path(directory, LOG)).is_file():
            lines.append(f"    log: {below(log, folder)}")
    return [*lines, *(f"unreadable  {reason}" for reason in table.unreadable)]


def markdown(
    table: Table,
    folder: Path,
    title: str,
    pictures: Iterable[str] = (),
    comparisons: Sequence[Differences] = (),
    sections: Sequence[Section] = (),
) -> str:
    """A page for GitHub: the leaderboard, what its figures are, differences, failures, pictures."""
    to_best = compare(table)
    lines = [f"# {title}", "", f"{summary(table)}.", ""]
    lines += markdown_table(columns(table, folder, to_best))
    lines += ["", *(f"- {escaped(note)}" for note in [*notes(table), *notes_on_marks(to_best)])]
    for i, found in enumerate(comparisons):
        lines += ["", f"## {escaped(difference_title(found))}", ""]
        lines += markdown_table(difference_columns(found))
        lines += ["", *(f"- {escaped(note)}" for note in notes_on(found, legend=i == 0))]
    for section in sections:
        lines += ["", f"## {escaped(section.title)}", "", *markdown_table(section.columns)]
        lines += ["", *(f"- {escaped(note)}" for note in section.notes)]
    if bad := failures(table, folder):
        lines += ["", "```", *bad, "```"]
    for picture in pictures:
        lines += ["", f"![{Path(picture).stem}]({picture})"]
    return "\n".join(lines) + "\n"


def settings_csv(table: Table, folder: Path) -> str:
    """A row per setting, figures in full precision; n is how many seeds they are over."""
    settings = table.settings[[*table.keys, *SETTING_COLUMNS]]
    return _csv(settings, table.keys, _has_ended(table.settings), folder)


def runs_csv(table: Table, folder: Path) -> str:
    """A row per run, in the order of the leaderboard."""
    is_done = table.runs["status"] == "done"
    keys = [*table.keys, "seed"]
    return _csv(table.runs[[*table.keys, *RUN_COLUMNS]], keys, is_done, folder)


def _csv(frame: pd.DataFrame, keys: Sequence[str], has_ended: pd.Series, folder: Path) -> str:
    frame = frame.astype(dict.fromkeys(METRICS, object))
    for key in keys:
        frame[key] = frame[key].map(exact)
    for metric in METRICS:
        frame.loc[_diverged(frame[metric], metric, has_ended), metric] = "nan"
    frame["directory"] = [below(path, folder) for path in frame["directory"]]
    return frame.to_csv(index=False, lineterminator="\n")
