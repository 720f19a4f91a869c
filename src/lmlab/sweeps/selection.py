"""The best runs below a folder, and their means over seeds: a folder of links for TensorBoard."""

from __future__ import annotations

import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lmlab.display.board import MOST_TICKED
from lmlab.errors import LabError
from lmlab.sweeps.kept import SEED_MEAN
from lmlab.sweeps.table.curves import names_of_settings, of_several_seeds
from lmlab.sweeps.table.settings import BEST, Table, load

SECONDS = 20.0  # between two looks at which runs are the best


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
        found: list[tuple[int, Path]] = []
        for means in sorted(self.folder.rglob(SEED_MEAN)):
            of_sweep = table if means.parent == self.folder else load([means.parent])
            names = names_of_settings(of_sweep, of_several_seeds(of_sweep))
            places = {name: n for n, name in names.items()}
            folders = [path for path in means.glob("*") if path.is_dir()]
            found += [(places.get(path.name, len(places) + 1), path) for path in folders]
        return [path for _, path in sorted(found)]

    def _link(self, wanted: set[Path]) -> None:
        for gone in self._linked - wanted:
            (self.links / gone).unlink(missing_ok=True)
        for new in wanted - self._linked:
            (self.links / new).parent.mkdir(parents=True, exist_ok=True)
            (self.links / new).symlink_to(self.folder / new, target_is_directory=True)
        self._linked = wanted
