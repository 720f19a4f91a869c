"""What a sweep found: printed, and kept beside its runs as tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from lmlab.console import console, current_console
from lmlab.errors import LabError
from lmlab.sweeps.board.page import page
from lmlab.sweeps.kept import FIT, LEADERBOARD, PAGE, PICTURES, PLOTS, Kept, left_alone
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.report.questions import Asked
from lmlab.sweeps.report.race_sections import race_sections
from lmlab.sweeps.report.sections import Section
from lmlab.sweeps.report.terminal import print_sections
from lmlab.sweeps.report.written import exact_files, markdown, pictures
from lmlab.sweeps.table.settings import Table, load


def report(folder: Path, metric: str | None = None, plots: bool = True) -> Table:
    """Print the leaderboard of every run below a folder, then keep it there with all else.

    It may be called again at any time, while the sweep runs too: files are replaced. What an
    earlier report was asked for is in the new one, too.

    Raises:
        LabError: if there is no run, or, after the leaderboard was printed, if files cannot be
            written.
    """
    table = load([folder], metric)
    print_sections(str(folder), [leaderboard(table), *race_sections(folder)], console)
    keep_all(table, folder, plots)
    return table


def keep_all(table: Table, folder: Path, plots: bool = True) -> None:
    """Write a report that answers, too, what the one that is there was asked.

    Raises:
        LabError: if it cannot be written.
    """
    before = Kept.read(folder).asked - {PICTURES}
    words, answers = _answered_again(table, before)
    keep(table, folder, words | ({PICTURES} if plots else set()), answers)


def _answered_again(table: Table, before: frozenset[str]) -> tuple[frozenset[str], list[Section]]:
    """What was asked before and can be answered still: the runs may be others by now."""
    for words in (before, before - {FIT}):
        with suppress(LabError, ValueError):
            return words, list(Asked.from_words(table, words).answers())
    return frozenset(), list(Asked(table).answers())


def keep(table: Table, folder: Path, asked: frozenset[str], answers: Iterable[Section]) -> None:
    """Write report.html, leaderboard.md, the sections' CSV and JSON files and plots/ into a
    folder. `asked` says what the report has, as `Kept.asked`.

    What is there and was written by no report stays.

    Raises:
        LabError: if it cannot be written.
    """
    sections = [leaderboard(table, folder=folder), *race_sections(folder), *answers]
    if PICTURES not in asked:
        sections = [replace(section, draw=tuple) for section in sections]
    title = folder.resolve().name
    files = {
        PAGE: page(table, folder, title, sections).encode(),
        LEADERBOARD: markdown(title, sections).encode(),
        **exact_files(sections),
    }
    drawn = pictures(sections)
    with Kept.opened(folder) as kept:
        own = kept.replace({**files, **drawn}, asked)
    names = [name for name in files if name not in own]
    if drawn:
        n = sum(name.endswith(".png") for name in drawn)
        names.append(f"{PLOTS}/ ({n} picture{'s' * (n != 1)})")
    current_console().print(Text(f"\nkept in {folder}: {', '.join(names)}"))
    if own:
        current_console().print(Text(left_alone(own)))
