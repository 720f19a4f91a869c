"""lmlab-board: TensorBoard on every run, or on the best of them."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

from lmlab.display.board import MOST_TICKED, count, start
from lmlab.errors import LabError, is_too_long


def main() -> None:
    """Start TensorBoard, print its link, wait for ctrl-c; an error is one line and status 2."""
    options, flags = _parser().parse_known_args()
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        for signum in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            signal.signal(signum, lambda number, _: sys.exit(128 + number))  # links are removed
        try:
            folder = options.folder
            if options.top is not None:
                from lmlab.sweeps.selection import Selection  # here, for it imports pandas

                selection = stack.enter_context(Selection(folder, options.top))
                folder = selection.links
                print(selection.summary)
            elif (n := count(folder)) > MOST_TICKED:
                print(
                    f"{n} runs: above {MOST_TICKED} TensorBoard ticks none; --top 10 shows the best"
                )
            link = start(folder, *flags)
        except LabError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            if not is_too_long(error):
                raise
            print("error: a name longer than the file system takes", file=sys.stderr)
            sys.exit(2)
        print(f"open {link}   (ctrl-c ends it)", flush=True)
        threading.Event().wait()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, like every other error."""
        self.exit(2, f"error: {message}\n")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is no number of runs: give 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="board.py" if sys.argv[0].endswith(".py") else "lmlab-board",
        usage="%(prog)s [folder of runs] [--top N] [flags of TensorBoard's]",
        description=(
            "TensorBoard on every run below a folder, on the first free port from 6006 on. Above "
            "40 runs it opens with every run unticked: --top shows the best."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("outputs"), help="(default: outputs)"
    )
    parser.add_argument(
        "--top",
        type=_count,
        metavar="N",
        help="the best N runs, as the leaderboard sorts them, and the means over seeds",
    )
    return parser
