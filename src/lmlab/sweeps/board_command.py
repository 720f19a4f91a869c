"""lmlab board: TensorBoard on every run, or on the best of them, with the means over seeds."""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

from lmlab.display.for_tensorboard.board import MOST_TICKED, count, start
from lmlab.errors import LabError
from lmlab.sweeps.board.plugin import BoardLoader
from lmlab.sweeps.board.scan import Scan
from lmlab.sweeps.command import LineParser, errors_in_a_line


def main() -> None:
    """Start TensorBoard, print its link, wait for ctrl-c; an error is one line and status 2."""
    options, flags = _parser().parse_known_args()
    with suppress(KeyboardInterrupt):
        with errors_in_a_line():
            link = _start(_folder(options), options.top, flags)
        print(f"open {link}   (ctrl-c ends it)", flush=True)
        threading.Event().wait()


def _start(folder: Path, top: int | None, flags: list[str]) -> str:
    from lmlab.sweeps.tabs.data_provider import ShownData  # here, for it imports pandas
    from lmlab.sweeps.tabs.means import Choice

    scan = Scan(folder)
    choice = Choice(scan, top)
    if top is not None:
        shown = choice.now()
        if not shown.best:
            raise LabError(f"{folder} holds no run: no run.json in it or below")
        print(shown.summary)
    elif (n := count(folder)) > MOST_TICKED:
        print(f"{n} runs: above {MOST_TICKED} TensorBoard ticks none; --top 10 shows the best")
    shown_data = partial(ShownData, scan=scan, choice=choice)
    tab = BoardLoader.plugin_name if scan.has_runs() else "timeseries"
    return start(folder, *flags, first=BoardLoader(scan), shown=shown_data, tab=tab)


def _folder(options: argparse.Namespace) -> Path:
    """The folder, by itself or as TensorBoard is told.

    Raises:
        LabError: if both say one.
    """
    folder: Path | None = options.folder
    logdir: Path | None = options.logdir
    if folder is not None and logdir is not None:
        raise LabError(f"--logdir={logdir}: the folder is {folder}; give one of them")
    return folder or logdir or Path("outputs")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is no number of runs: give 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        prog="board.py" if sys.argv[0].endswith("board.py") else "lmlab board",
        usage="%(prog)s [folder of runs] [--top N] [flags of TensorBoard's]",
        description=(
            "TensorBoard on every run below a folder, on the first free port from 6006 on. Above "
            "40 runs it opens with every run unticked: --top shows the best."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, nargs="?", help="(default: outputs)")
    parser.add_argument("--logdir", type=Path, metavar="folder", help="the same folder")
    parser.add_argument(
        "--top",
        type=_count,
        metavar="N",
        help="the best N runs, as the leaderboard sorts them, and the means over seeds",
    )
    return parser
