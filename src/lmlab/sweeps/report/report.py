"""What a sweep found: printed, and kept beside its runs as tables, pictures and mean curves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from lmlab.console import console
from lmlab.files import atomic_file, write_atomically
from lmlab.sweeps.compare.differences import Differences
from lmlab.sweeps.compare.questions import Questions
from lmlab.sweeps.report.leaderboard import markdown, print_table, runs_csv, settings_csv
from lmlab.sweeps.report.page import page
from lmlab.sweeps.report.sections import Section
from lmlab.sweeps.report.verdicts import differences_csv
from lmlab.sweeps.table.curves import SEED_MEAN, write_seed_means
from lmlab.sweeps.table.settings import Table, load

if TYPE_CHECKING:
    from lmlab.sweeps.compare.scaling import Scaling

LEADERBOARD, LEADERBOARD_CSV, RUNS_CSV = "leaderboard.md", "leaderboard.csv", "runs.csv"
PAGE = "report.html"
DIFFERENCES_CSV = "differences.csv"
SCALING_CSV, SCALING_JSON = "scaling.csv", "scaling.json"
PLOTS = "plots"


def report(folder: Path, metric: str | None = None, plots: bool = True) -> Table:
    """Print the leaderboard of every run below a folder, then keep it there with all else.

    It may be called again at any time, while the sweep runs too: files are replaced.

    Raises:
        LabError: if there is no run, or, after the leaderboard was printed, if files cannot be
            written.
    """
    table = load([folder], metric)
    print_table(table, console, str(folder))
    keep(table, folder, plots, Questions(table).answers())
    return table


def keep(
    table: Table,
    folder: Path,
    plots: bool = True,
    comparisons: Sequence[Differences] = (),
    scaling: Scaling | None = None,
) -> None:
    """Write report.html, leaderboard.md, leaderboard.csv, runs.csv, plots/ and _seed-mean/ into a
    folder, differences.csv, if anything was compared, and a `scaling` law, if one was fitted."""
    names = _write_pictures(table, comparisons, folder / PLOTS, scaling) if plots else []
    pictures = [f"{PLOTS}/{name}" for name in names]
    more = _write_scaling(scaling, folder)
    about = table, folder, folder.resolve().name, pictures, comparisons, more
    write_atomically(folder / LEADERBOARD_CSV, settings_csv(table, folder).encode())
    write_atomically(folder / RUNS_CSV, runs_csv(table, folder).encode())
    write_atomically(folder / LEADERBOARD, markdown(*about).encode())
    write_atomically(folder / PAGE, page(*about).encode())
    if comparisons:
        write_atomically(folder / DIFFERENCES_CSV, differences_csv(comparisons).encode())
    else:
        (folder / DIFFERENCES_CSV).unlink(missing_ok=True)  # of an earlier report
    means = write_seed_means(table, folder)
    kept = [
        PAGE,
        LEADERBOARD,
        LEADERBOARD_CSV,
        RUNS_CSV,
        *([DIFFERENCES_CSV] if comparisons else []),
        *([SCALING_CSV, SCALING_JSON] if scaling else []),
    ]
    if names:
        kept.append(f"{PLOTS}/ ({len(names)} pictures)")
    if means is not None:
        kept.append(f"{SEED_MEAN}/ (curves for TensorBoard)")
    console.print(Text(f"\nkept in {folder}: {', '.join(kept)}"))


def _write_scaling(scaling: Scaling | None, folder: Path) -> list[Section]:
    if scaling is None:
        for name in (SCALING_CSV, SCALING_JSON):  # of an earlier report
            (folder / name).unlink(missing_ok=True)
        return []
    from lmlab.sweeps.report.scaling_report import scaling_csv, scaling_json, sections

    write_atomically(folder / SCALING_CSV, scaling_csv(scaling).encode())
    write_atomically(folder / SCALING_JSON, scaling_json(scaling).encode())
    return sections(scaling)


def _write_pictures(
    table: Table, comparisons: Sequence[Differences], folder: Path, scaling: Scaling | None
) -> list[str]:
    """Write the pictures, and delete those of an earlier report that are no longer drawn."""
    from lmlab.sweeps.figures.plots import pictures
    from lmlab.sweeps.figures.width_plots import width_pictures

    drawn = chain(width_pictures(table), pictures(table, comparisons))
    if scaling is not None:
        from lmlab.sweeps.figures.scaling_plots import scaling_pictures

        drawn = chain(scaling_pictures(scaling), drawn)
    names = []
    for name, figure in drawn:
        with atomic_file(folder / name, parents=True) as file:
            figure.savefig(file, format="png")
        names.append(name)
    for old in folder.glob("*.png"):
        if old.name not in names:
            old.unlink()
    return names
