"""What a sweep found: printed, and kept beside its runs as tables, pictures and mean curves."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from lmlab.console import console
from lmlab.files import atomic_file, write_atomically
from lmlab.sweeps.curves import SEED_MEAN, write_seed_means
from lmlab.sweeps.leaderboard import markdown, print_table, runs_csv, settings_csv
from lmlab.sweeps.table import Table, load

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


def keep(table: Table, folder: Path, plots: bool = True) -> None:
    """Write leaderboard.md, leaderboard.csv, runs.csv, plots/ and seed-mean/ into a folder."""
    names = _write_pictures(table, folder / PLOTS) if plots else []
    page = markdown(table, folder, folder.resolve().name, [f"{PLOTS}/{name}" for name in names])
    write_atomically(folder / LEADERBOARD_CSV, settings_csv(table, folder).encode())
    write_atomically(folder / RUNS_CSV, runs_csv(table, folder).encode())
    write_atomically(folder / LEADERBOARD, page.encode())
    means = write_seed_means(table, folder)
    kept = [LEADERBOARD, LEADERBOARD_CSV, RUNS_CSV]
    if names:
        kept.append(f"{PLOTS}/ ({len(names)} pictures)")
    if means is not None:
        kept.append(f"{SEED_MEAN}/ (curves for TensorBoard)")
    console.print(Text(f"\nkept in {folder}: {', '.join(kept)}"))


def _write_pictures(table: Table, folder: Path) -> list[str]:
    """Write the pictures, and delete those of an earlier report that are no longer drawn."""
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
