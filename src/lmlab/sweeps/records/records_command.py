"""`scripts/records.py`: a recipe's seeds, and its row in the table of records."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from lmlab.console import say
from lmlab.errors import LabError
from lmlab.sweeps.command import LineParser, errors_in_a_line
from lmlab.sweeps.records.attempt import recipe_of, seeds_of
from lmlab.sweeps.records.ledger import (
    Row,
    check_new,
    judged,
    read_rows,
    show_in,
    standing_record,
    write_rows,
)
from lmlab.sweeps.records.rulebook import BUDGETS, SEEDS, budget_named


def main(docs: Path, arguments: Sequence[str] | None = None, commit: str | None = None) -> None:
    """Train a recipe's seeds and put its row into records.csv and records.md in `docs`.

    `commit` is that of the code; None: as git says.
    """
    options = _parser().parse_args(arguments)
    with errors_in_a_line():
        try:
            _attempt(options, docs, commit or _commit(docs.parent))
        except KeyboardInterrupt:
            sys.exit(130)


def _attempt(options: argparse.Namespace, docs: Path, commit: str) -> None:
    ledger, budget = docs / "records.csv", budget_named(options.budget)
    recipe = recipe_of(options.words)
    rows = read_rows(ledger)
    if not recipe.is_rehearsal:
        check_new(rows, budget.name, recipe.fingerprint)
        if not commit:
            raise LabError("a row names the commit that repeats it: commit your changes first")
    # Seeds of one commit: after another, all begin anew.
    kind = "rehearsal" if recipe.is_rehearsal else commit[:8]
    folder = options.folder / f"{budget.name}-{recipe.fingerprint}-{kind}"
    say(f"{recipe}: {options.seeds} seeds in {folder}")
    seeds = seeds_of(recipe, budget, folder, options.seeds, options.threads, options.jobs)
    if recipe.is_rehearsal:
        say("a rehearsal on the train split alone: no row is made of it")
        return
    about = seeds[0].record
    row = Row(
        budget=budget.name,
        recipe=str(recipe),
        fingerprint=recipe.fingerprint,
        commit=commit,
        losses=tuple(round(seed.loss, 6) for seed in seeds),
        mean=0.0,
        against="",
        p=None,
        is_record=False,
        cpu_seconds=tuple(round(seed.spent.cpu, 1) for seed in seeds),
        wall_seconds=tuple(round(seed.spent.wall, 1) for seed in seeds),
        threads=about["threads"],
        processor=about["processor"],
        python=about["versions"]["python"],
        torch=about["versions"]["torch"],
        lmlab=about["versions"]["lmlab"],
        date=date.today().isoformat(),
    )
    row, standing = judged(row, rows), standing_record(rows, budget.name)
    write_rows(ledger, [*rows, row])
    show_in(docs / "records.md", [*rows, row])
    say(f"mean {row.mean:.4f}; {_verdict(row, standing)}")


def _commit(checkout: Path) -> str:
    """The commit of a checkout; empty where code or recipes differ from it, or there is none."""
    git = ["git", "-C", str(checkout)]
    head = [*git, "rev-parse", "HEAD"]
    changes = [*git, "status", "--porcelain", "--", "src", "conf", "scripts"]
    try:
        commit, changed = (subprocess.check_output(ask, text=True) for ask in (head, changes))
    except (OSError, subprocess.CalledProcessError):
        return ""
    return "" if changed else commit.strip()


def _verdict(row: Row, standing: Row | None) -> str:
    if standing is None:
        return f"the first of {row.budget}"
    beside = f"beside {standing.mean:.4f} of {standing.recipe}, p = {row.p:.2g}"
    return f"a new record {beside}" if row.is_record else f"no record: {beside}"


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        prog="records.py",
        description=(
            "Train the seeds of a recipe, check the rules of docs/records.md, and put the row into "
            "docs/records.csv and the table. Interrupted, the same command goes on."
        ),
        epilog=(
            "A recipe is the overrides of a training, such as experiment=record/fast; after `then` "
            "come those of another, which learns from the models before it, too. With "
            "corpus=tinyshakespeare_train it is a rehearsal: the same, with val unseen and no row."
        ),
    )
    parser.add_argument("budget", choices=BUDGETS, help="of processor time: 20, 360 or 3,600 s")
    parser.add_argument("words", nargs="+", metavar="OVERRIDE", help="the recipe")
    parser.add_argument("--seeds", type=int, default=SEEDS, choices=range(SEEDS, 101), metavar="N")
    parser.add_argument("--threads", type=int, default=1, choices=range(1, 129), metavar="N")
    parser.add_argument(
        "--jobs", type=int, default=1, choices=range(1, 129), metavar="N", help="seeds side by side"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/records"), help="of the runs (%(default)s)"
    )
    return parser
