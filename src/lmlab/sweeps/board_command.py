"""lmlab-board: TensorBoard on every run, or on the best of them by a folder of links."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from lmlab.display.board import MOST_TICKED, count, start
from lmlab.errors import LabError
from lmlab.sweeps.board.plugin import BoardLoader
from lmlab.sweeps.command import LineParser, errors_in_a_line

if TYPE_CHECKING:
    from lmlab.sweeps.table.settings import Table

SECONDS = 20.0  # between two looks at which runs are the best


def main() -> None:
    """Start TensorBoard, print its link, wait for ctrl-c; an error is one line and status 2."""
    options, flags = _parser().parse_known_args()
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        for signum in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            signal.signal(signum, lambda number, _: sys.exit(128 + number))  # links are removed
        with errors_in_a_line():
            folder = options.folder
            if options.top is not None:
                selection = stack.enter_context(Selection(folder, options.top))
                folder = selection.links
                print(selection.summary)
            elif (n := count(folder)) > MOST_TICKED:
                print(
                    f"{n} runs: above {MOST_TICKED} TensorBoard ticks none; --top 10 shows the best"
                )
            link = start(folder, *flags, first=BoardLoader(options.folder))
        print(f"open {link}   (ctrl-c ends it)", flush=True)
        threading.Event().wait()


class Selection:
    """Links to the best `top` runs, sorted as the leaderboard is, and to as many seed means as have
    room beside them.

    The links lead to the runs' own directories, so what a live run writes is seen; which runs are
    the best is looked up again while the context lasts. At its end the links are gone.
    """

    def __init__(self, folder: Path, top: int):
        """
        Raises:
            LabError: if there is no run below `folder`, or no such folder.
        """
        self.folder, self.top = folder.resolve(), top
        self.links = Path()
        self._linked: set[Path] = set()  # relative to both folders
        self._over = threading.Event()
        self._wanted, self.summary = self._select()

    def __enter__(self) -> Selection:
        self.links = Path(tempfile.mkdtemp(prefix="lmlab-board-"))
        self._link(self._wanted)
        self._thread = threading.Thread(target=self._follow, name="selection", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        shutil.rmtree(self.links, ignore_errors=True)  # links are removed, not what they lead to

    def update(self) -> None:
        """Look again which runs are the best."""
        with suppress(LabError, OSError):  # of a folder that is gone: what is there stays
            wanted, self.summary = self._select()
            self._link(wanted)

    def _follow(self) -> None:
        while not self._over.wait(SECONDS):
            self.update()

    def _select(self) -> tuple[set[Path], str]:
        from lmlab.sweeps.table.settings import BEST, load  # here, for it imports pandas

        table = load([self.folder])
        runs = table.runs.sort_values([table.metric, BEST], kind="stable")
        best = [Path(path).resolve() for path in runs["directory"][: self.top]]
        means = self._means(table)
        shown = means[: max(MOST_TICKED - len(best), 0)]
        summary = f"the best {len(best)} of {len(runs)} runs by {table.metric}"
        if means:
            of = "" if len(shown) == len(means) else f" of {len(means)}"
            summary += f", and the mean over seeds of {len(shown)}{of} settings"
        return {path.relative_to(self.folder) for path in (*best, *shown)}, summary

    def _means(self, table: Table) -> list[Path]:
        """The folders of mean curves that a report has written, the best settings of all sweeps
        first."""
        from lmlab.sweeps.kept import SEED_MEAN
        from lmlab.sweeps.table.curves import names_of_settings, of_several_seeds
        from lmlab.sweeps.table.settings import load

        ranked: list[tuple[int, Path]] = []
        for means in sorted(self.folder.rglob(SEED_MEAN)):
            of_sweep = table if means.parent == self.folder else load([means.parent])
            names = names_of_settings(of_sweep, of_several_seeds(of_sweep))
            places = {name: n for n, name in names.items()}
            folders = [path for path in means.glob("*") if path.is_dir()]
            ranked += [(places.get(path.name, len(places) + 1), path) for path in folders]
        return [path for _, path in sorted(ranked)]

    def _link(self, wanted: set[Path]) -> None:
        for gone in self._linked - wanted:
            (self.links / gone).unlink(missing_ok=True)
        for new in wanted - self._linked:
            (self.links / new).parent.mkdir(parents=True, exist_ok=True)
            (self.links / new).symlink_to(self.folder / new, target_is_directory=True)
        self._linked = wanted


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is no number of runs: give 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
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
