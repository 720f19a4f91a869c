"""What a sweep found: printed, and kept beside its runs as tables, pictures and mean curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from lmlab.console import console
from lmlab.errors import LabError
from lmlab.files import atomic_file, write_atomically
from lmlab.sweeps.curves import SEED_MEAN, write_seed_means
from lmlab.sweeps.leaderboard import groups_csv, markdown, print_table, runs_csv
from lmlab.sweeps.table import Table, read, tabulate

LEADERBOARD, LEADERBOARD_CSV, RUNS_CSV = "leaderboard.md", "leaderboard.csv", "runs.csv"
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
    keep(table, folder, plots)
    return table


def load(folders: Sequence[Path], metric: str | None = None) -> Table:
    """The runs below some folders as a table.

    Raises:
        LabError: if there is none.
    """
    rows, unreadable = read(folders)
    if not rows:
        where = ", ".join(map(str, folders))
        why = f"; {unreadable[0]}" if unreadable else ": no run.json in it or below"
        raise LabError(f"{where} holds no run{why}")
    return tabulate(rows, unreadable, metric)


def keep(table: Table, folder: Path, plots: bool = True) -> None:
    """Write leaderboard.md, leaderboard.csv, runs.csv, plots/ and seed-mean/ into a folder."""
    drawn = _draw(table, folder / PLOTS) if plots else []
    title = folder.resolve().name
    page = markdown(table, folder, title, [f"{PLOTS}/{name}" for name in drawn])
    write_atomically(folder / LEADERBOARD_CSV, groups_csv(table, folder).encode())
    write_atomically(folder / RUNS_CSV, runs_csv(table, folder).encode())
    write_atomically(folder / LEADERBOARD, page.encode())
    means = write_seed_means(table, folder)
    said = [LEADERBOARD, LEADERBOARD_CSV, RUNS_CSV]
    said += [f"{PLOTS}/ ({len(drawn)} pictures)"] * bool(drawn)
    said += [f"{SEED_MEAN}/ (curves for TensorBoard)"] * (means is not None)
    console.print(Text(f"\nkept in {folder}: {', '.join(said)}"))


def _draw(table: Table, folder: Path) -> list[str]:
    """Write the pictures; those of an earlier call that are no more asked for go."""
    from lmlab.sweeps.plots import pictures

    names = []
    for name, figure in pictures(table):
        with atomic_file(folder / name, parents=True) as file:
            figure.savefig(file, format="png")
        names.append(name)
    for old in folder.glob("*.png"):
        if old.name not in names:
            old.unlink()
    return names
