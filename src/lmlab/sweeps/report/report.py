"""What a sweep found: printed, and kept beside its runs as tables, pictures and mean curves."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from lmlab.console import console
from lmlab.errors import LabError
from lmlab.sweeps.compare.differences import Differences
from lmlab.sweeps.compare.questions import Questions
from lmlab.sweeps.kept import (
    DIFFERENCES_CSV,
    FIT,
    LEADERBOARD,
    LEADERBOARD_CSV,
    PAGE,
    PICTURES,
    PLOTS,
    RUNS_CSV,
    SCALING_CSV,
    SCALING_JSON,
    SEED_MEAN,
    Kept,
    left_alone,
)
from lmlab.sweeps.report.leaderboard import markdown, print_table, runs_csv, settings_csv
from lmlab.sweeps.report.page import page
from lmlab.sweeps.report.verdicts import differences_csv
from lmlab.sweeps.table.curves import seed_means
from lmlab.sweeps.table.settings import Table, load

if TYPE_CHECKING:
    from lmlab.sweeps.compare.scaling import Scaling


def report(folder: Path, metric: str | None = None, plots: bool = True) -> Table:
    """Print the leaderboard of every run below a folder, then keep it there with all else.

    It may be called again at any time, while the sweep runs too: files are replaced. What an
    earlier report was asked for is in the new one, too.

    Raises:
        LabError: if there is no run, or, after the leaderboard was printed, if files cannot be
            written.
    """
    table = load([folder], metric)
    print_table(table, console, str(folder))
    keep_all(table, folder, plots)
    return table


def keep_all(table: Table, folder: Path, plots: bool = True) -> None:
    """Write a report that answers, too, what the one that is there was asked.

    Raises:
        LabError: if it cannot be written.
    """
    before = Kept.read(folder).asked
    questions, scaling, asked = Questions(table), None, {PICTURES} if plots else set()
    with suppress(LabError, ValueError):  # the runs may be others by now
        at = [word.removeprefix("--at ") for word in before if word.startswith("--at ")]
        to = [float(word.removeprefix("--to ")) for word in before if word.startswith("--to ")]
        questions = Questions.parse(table, None, None, sorted(at), sorted(to))
        asked |= before - {FIT, PICTURES}
    if FIT in before:
        with suppress(LabError):
            from lmlab.sweeps.compare.scaling import scaling_of

            scaling = scaling_of(table)
            asked |= {FIT}
    keep(table, folder, frozenset(asked), questions.answers(), scaling)


def keep(
    table: Table,
    folder: Path,
    asked: frozenset[str] = frozenset({PICTURES}),
    comparisons: Sequence[Differences] = (),
    scaling: Scaling | None = None,
) -> None:
    """Write report.html, leaderboard.md, leaderboard.csv, runs.csv, plots/ and _seed-mean/ into a
    folder, differences.csv, if anything was compared, and a `scaling` law, if one was fitted.

    What is there and was written by no report stays.

    Raises:
        LabError: if it cannot be written.
    """
    pictures: dict[str, bytes] = {}
    if PICTURES in asked:
        pictures = {f"{PLOTS}/{name}": png for name, png in _pictures(table, comparisons, scaling)}
    title = folder.resolve().name
    sections, laws = [], {}
    if scaling is not None:
        from lmlab.sweeps.report import scaling_report

        laws[SCALING_CSV] = scaling_report.scaling_csv(scaling).encode()
        laws[SCALING_JSON] = scaling_report.scaling_json(scaling).encode()
        sections = scaling_report.sections(scaling)
    about = table, folder, title, pictures, comparisons, sections
    files = {
        PAGE: page(*about).encode(),
        LEADERBOARD: markdown(*about).encode(),
        LEADERBOARD_CSV: settings_csv(table, folder).encode(),
        RUNS_CSV: runs_csv(table, folder).encode(),
        **({DIFFERENCES_CSV: differences_csv(comparisons).encode()} if comparisons else {}),
        **laws,
    }
    means = {f"{SEED_MEAN}/{name}": events for name, events in seed_means(table).items()}
    with Kept.opened(folder) as kept:
        own = kept.replace({**files, **pictures, **means}, asked)
    names = [name for name in files if name not in own]
    if pictures:
        names.append(f"{PLOTS}/ ({len(pictures)} pictures)")
    if means:
        names.append(f"{SEED_MEAN}/ (curves for TensorBoard)")
    console.print(Text(f"\nkept in {folder}: {', '.join(names)}"))
    if own:
        console.print(Text(left_alone(own)))


def _pictures(
    table: Table, comparisons: Sequence[Differences], scaling: Scaling | None
) -> Iterable[tuple[str, bytes]]:
    """Every picture as PNG, by its file's name."""
    from lmlab.sweeps.figures.plots import pictures
    from lmlab.sweeps.figures.width_plots import width_pictures

    drawn = chain(width_pictures(table), pictures(table, comparisons))
    if scaling is not None:
        from lmlab.sweeps.figures.scaling_plots import scaling_pictures

        drawn = chain(scaling_pictures(scaling), drawn)
    for name, figure in drawn:
        png = io.BytesIO()
        figure.savefig(png, format="png")
        yield name, png.getvalue()
