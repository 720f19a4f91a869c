"""`lmlab sweep`: what a sweep found so far. It composes no config, so it has no need of Hydra."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NoReturn

from lmlab.errors import LabError, is_too_long
from lmlab.output import whole_output

# What may be typed, and the column that it means.
METRICS = {
    "val/loss_full": "val/loss_full",
    "val/bpc_full": "val/bpc_full",
    "best": "best val/loss",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Show and keep the report of the folders named; an error is one line and exit status 2."""
    options = _parser().parse_args(arguments)
    with errors_in_a_line():
        try:
            with whole_output() as out:
                _show(options)
        except KeyboardInterrupt:
            sys.exit(130)
        if out.problem is not None:
            raise LabError(out.problem)


@contextmanager
def errors_in_a_line() -> Iterator[None]:
    """What the user can put right is one line and exit status 2."""
    try:
        yield
    except (LabError, OSError) as error:
        if isinstance(error, OSError) and not is_too_long(error):
            raise
        text = error if isinstance(error, LabError) else "a name longer than the file system takes"
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)


class LineParser(argparse.ArgumentParser):
    """Refuses what is typed in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _show(options: argparse.Namespace) -> None:
    from rich.text import Text

    from lmlab.console import console
    from lmlab.sweeps.kept import Kept, is_of_a_sweep
    from lmlab.sweeps.report.leaderboard import best_of_each, leaderboard
    from lmlab.sweeps.report.questions import Asked, points_asked
    from lmlab.sweeps.report.race_sections import race_sections
    from lmlab.sweeps.report.terminal import print_sections
    from lmlab.sweeps.reporting import keep
    from lmlab.sweeps.table.settings import load

    by = options.by.split(",") if options.by else []
    folders: list[Path] = options.folders
    if options.watch:
        from lmlab.sweeps.live.watch import watch

        if len(folders) > 1:
            raise LabError(f"--watch: one folder at a time, not {len(folders)}")
        points_asked(options.least, options.at, options.to)  # rather than when it is over
        watch(folders[0])
    table = load(folders, METRICS.get(options.metric))
    for key in by:
        if key not in table.keys:
            from lmlab.config.slips import nearest

            differing = ", ".join(table.keys) or "no key, beside the seed"
            raise LabError(f"--by {key}: the runs differ in {differing}{nearest(key, table.keys)}")
    about = options.baseline, options.least, options.at, options.to, options.fit
    asked, chosen = Asked.parse(table, *about), best_of_each(table, by)
    raced = [section for folder in folders for section in race_sections(folder)]
    sections = chain([leaderboard(table, chosen), *raced], asked.answers(chosen))
    printed = print_sections(", ".join(map(str, folders)), sections, console)
    answers = printed[1 + len(raced) :]
    if len(folders) > 1 or not (options.write or is_of_a_sweep(folders[0])):
        return
    words = _words(options)
    if missing := Kept.read(folders[0]).asked - words:  # a report never gives way to a poorer one
        console.print(
            Text(f"\nthe report in {folders[0]} stays: it has {', '.join(sorted(missing))}, too")
        )
        return
    keep(table, folders[0], words, asked.answers() if by else answers)


def _words(options: argparse.Namespace) -> frozenset[str]:
    """What is asked for, as `Kept.asked` has it."""
    from lmlab.sweeps.kept import FIT, PICTURES

    words = [*(f"--at {when}" for when in options.at), *(f"--to {loss:g}" for loss in options.to)]
    return frozenset([*words, *[PICTURES] * options.plots, *[FIT] * options.fit])


def _number(text: str) -> float:
    """As it is written in a config: float() also takes 1_0, and the digits of other scripts.

    Raises:
        ValueError: if it is none.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return float(text)


_number.__name__ = "number"  # as argparse calls it: invalid number value


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        prog="sweep.py" if sys.argv[0].endswith("sweep.py") else "lmlab sweep",
        description=(
            "What the runs below a folder found: a leaderboard of the keys that differ, mean ± "
            "standard deviation over seeds, which differences are more than the noise of seeds, "
            "failures and their reasons. It works at any time: while a sweep runs, when it is "
            "done, after a crash."
        ),
        epilog=(
            "Kept in the folder of a sweep, or in any with --write: report.html, leaderboard.md, "
            "leaderboard.csv (a row per setting), runs.csv (a row per run), differences.csv (a row "
            "per comparison), scaling.csv and scaling.json (of --fit), and plots/. A report that "
            "has more than is asked for now stays as it is, and so does every file that no report "
            "wrote. With several folders one table over all is printed, and nothing is kept."
        ),
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="outputs/sweeps/…")
    parser.add_argument(
        "--metric",
        choices=METRICS,
        help="what to sort and draw by (default: val/loss_full; val/bpc_full if tokens differ)",
    )
    parser.add_argument(
        "--by", metavar="KEY,…", help="print only the best setting for each value of these keys"
    )
    parser.add_argument(
        "--baseline",
        metavar="KEY=VALUE,…",
        help="the setting that the others are compared with, seed by seed (default: the best)",
    )
    parser.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="WHEN",
        help="compare val/loss at 30s, 1000steps, 2e6tokens or 1e12flops of training; "
        "may be repeated",
    )
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        type=_number,
        metavar="LOSS",
        help="compare the steps, seconds and FLOPs that it took to reach this val/loss; "
        "may be repeated",
    )
    parser.add_argument(
        "--least",
        type=_number,
        metavar="SIZE",
        help="say how many seeds tell a loss difference of this size (default: of the one seen)",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="fit the law L(N, D) = E + A / N^alpha + B / D^beta to runs of several sizes and "
        "numbers of tokens",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show how far a sweep is, whatever trains its jobs, until it is over",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="keep the report in the folder though it is not that of a sweep",
    )
    parser.add_argument(
        "--no-plots", dest="plots", action="store_false", help="draw no pictures (a second less)"
    )
    return parser
