"""What lies below a log folder: sweeps and their runs, read again where files have changed.

A thread looks while somebody asks, and ends when nobody has for a while. Names are those that it
saw: nothing else can be asked for. No link is followed on the way to a run, and none out of it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.errors import LabError
from lmlab.runs.directory import CONFIG, METRICS, RECORD
from lmlab.sweeps.journal.journal import FOLDER, MULTIRUN
from lmlab.sweeps.live.watched import SweepProgress, Watched
from lmlab.sweeps.table.raced import RACE
from lmlab.sweeps.table.reading import RunFiles, read_run, started

if TYPE_CHECKING:
    from lmlab.sweeps.table.settings import Table

SECONDS, LONGEST = 2.0, 8.0  # between two looks, the longer the more there is
IDLE = 30.0  # seconds without a question, after which nobody looks
MOST_FOLDERS = 200_000  # somebody's home folder is no folder of runs
LINK = "a link stands in its place, which is not followed"
Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SeenRun:
    """A run, or what is left of one."""

    name: str  # its directory as seen from the log folder: TensorBoard's name of it
    path: Path
    sweep: str
    files: RunFiles | None
    problem: str  # why there are no `files`
    stamp: Stamp

    @property
    def status(self) -> str:
        return self.files.status if self.files else "unreadable"


@dataclass(frozen=True)
class SeenSweep:
    """A sweep, or a folder of plain runs."""

    name: str
    path: Path
    is_launched: bool  # by a multirun
    runs: tuple[SeenRun, ...]
    progress: SweepProgress  # as of the last look
    moved: float  # when a file of it was last written, seconds since the epoch
    version: str  # changes with whatever was seen of it
    # What was made of this version, by whoever it was.
    made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def title(self) -> str:
        """Its name; the log folder itself has one, too."""
        return self.path.name if self.name == "." else self.name

    @property
    def files(self) -> list[RunFiles]:
        """Its readable runs in the order they were started."""
        return sorted((run.files for run in self.runs if run.files), key=started)

    @property
    def table(self) -> Table | None:
        """Its readable runs, if there is one: made once for all who ask for this version."""
        from lmlab.sweeps.table.settings import tabulate  # here, for it imports pandas

        if "table" not in self.made and (files := self.files):
            self.made["table"] = tabulate(files)
        return self.made.get("table")


class Scan:
    """The sweeps below a folder."""

    def __init__(self, folder: Path):
        self.folder = Path(os.path.realpath(folder))
        self._runs: dict[str, SeenRun] = {}
        self._watched: dict[str, Watched] = {}  # by the name of the sweep
        self._sweeps: dict[str, SeenSweep] = {}
        self.is_cut = self._has_runs = False  # is_cut: not every folder was looked through
        self._walked, self._first = threading.Event(), threading.Event()  # once each
        self._asked, self._starting = 0.0, threading.Lock()
        self._thread: threading.Thread | None = None

    def sweeps(self) -> Mapping[str, SeenSweep]:
        """By name, as last seen; a first look, or one after a while, is waited for, so many
        seconds."""
        with self._starting:
            self._start()
        self._first.wait(20.0)
        return self._sweeps

    def has_runs(self) -> bool:
        """Whether there is a sweep, or more than one run: known before any is read, and looked for
        while there is none."""
        if not self._has_runs:
            with self._starting:
                self._start()
            self._walked.wait(3.0)
        return self._has_runs

    def runs(self) -> Mapping[str, SeenRun]:
        """All runs by name, as last seen."""
        self.sweeps()
        return self._runs

    def run(self, name: str) -> SeenRun | None:
        """One that was seen, as it is at this moment."""
        seen = self.runs().get(name)
        return None if seen is None else self._again(seen)

    def look(self) -> None:
        """See what is there now."""
        launched, places = self._walk()
        self._has_runs = bool(launched) or len(places) > 1
        self._walked.set()
        runs = {name: self._seen(name, path, sweep) for name, (path, sweep) in places.items()}
        # One that was here a moment ago is not left out without a word.
        there = launched.keys() | {run.sweep for run in runs.values()}
        for name, before in self._runs.items():
            if name not in runs and before.sweep in there:
                runs[name] = self._again(before)
        by_sweep: dict[str, list[SeenRun]] = {name: [] for name in launched}
        for run in runs.values():
            by_sweep.setdefault(run.sweep, []).append(run)
        sweeps = {}
        for name, of_sweep in sorted(by_sweep.items()):
            path = launched.get(name) or self._above(of_sweep[0].path)
            seen = self._sweep(name, path, name in launched, of_sweep)
            known = self._sweeps.get(name)
            if known and known.version == seen.version:
                seen = replace(seen, made=known.made)
            sweeps[name] = seen
        self._runs, self._sweeps = runs, sweeps
        self._watched = {name: self._watched[name] for name in sweeps}
        self._first.set()

    def _start(self) -> None:
        self._asked = time.monotonic()
        if self._thread is None or not self._thread.is_alive():
            self._first.clear()  # what was seen long ago is no answer
            self._thread = threading.Thread(target=self._follow, name="sweeps", daemon=True)
            self._thread.start()

    def _follow(self) -> None:
        while time.monotonic() - self._asked < IDLE:
            began = time.monotonic()
            self.look()
            # Thousands of runs on a slow disk are not all that it does.
            time.sleep(min(max(SECONDS, 4 * (time.monotonic() - began)), LONGEST))

    def _walk(self) -> tuple[dict[str, Path], dict[str, tuple[Path, str]]]:
        """Launched sweeps by name; by each run's name its directory, and the name of its sweep, or
        its folder's."""
        launched: dict[str, Path] = {}
        runs: dict[str, tuple[Path, str]] = {}
        sweep_of: dict[Path, str] = {}  # the launched sweep that a folder lies in
        for n, (path, folders, files) in enumerate(os.walk(self.folder)):
            here = Path(path)
            if FOLDER in folders or MULTIRUN in files:
                sweep_of[here] = name = self._name(here)
                launched[name] = here
            sweep = sweep_of.pop(here, None)
            if RECORD in files:
                runs[self._name(here)] = here, sweep or self._name(self._above(here))
                folders.clear()  # a run holds no runs
            folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
            if sweep is not None:
                sweep_of |= {here / folder: sweep for folder in folders}
            self.is_cut = n >= MOST_FOLDERS
            if self.is_cut:
                break
        return launched, runs

    def _name(self, path: Path) -> str:
        """A folder as seen from the log folder; an address cannot hold bytes that are no text."""
        name = path.relative_to(self.folder).as_posix()
        return name.encode(errors="backslashreplace").decode()

    def _above(self, path: Path) -> Path:
        return path if path == self.folder else path.parent

    def _again(self, run: SeenRun) -> SeenRun:
        """A run that was seen, and may be gone by now."""
        if self._is_elsewhere(run.path):
            return replace(run, files=None, problem=LINK, stamp=())
        return self._seen(run.name, run.path, run.sweep)

    def _seen(self, name: str, path: Path, sweep: str) -> SeenRun:
        stamp = tuple(stamp_of(path / file) for file in (RECORD, CONFIG, METRICS))
        before = self._runs.get(name)
        if before is not None and before.stamp == stamp and before.sweep == sweep:
            return replace(before, files=before.files and before.files.as_it_stands())
        try:
            files = None if self._is_elsewhere(path) else read_run(path)
            if files is None or self._is_elsewhere(path):  # a link in its place, by now
                problem = LINK
            elif files.record:
                return SeenRun(name, path, sweep, files, "", stamp)
            else:
                problem = f"{RECORD} is gone" if path.is_dir() else "it was moved or deleted"
        except (LabError, OSError) as error:
            problem = " ".join(str(error).replace(f"{path}{os.sep}", "").split())
        return SeenRun(name, path, sweep, None, problem, stamp)

    def _is_elsewhere(self, path: Path) -> bool:
        """Whether a link leads out of the folder, or to another place in it."""
        return Path(os.path.realpath(path)) != path

    def _sweep(self, name: str, path: Path, is_launched: bool, runs: list[SeenRun]) -> SeenSweep:
        watched = self._watched.setdefault(name, Watched(path))
        progress = watched.look(run.files for run in runs if run.files)
        seen = [(run.name, run.stamp, run.status, run.problem) for run in runs]
        # Without what changes by itself: the time left of what has not moved.
        jobs = [(job.name, job.status, job.error) for job in progress.jobs]
        version = hashlib.sha256(
            repr((seen, jobs, progress.counts, stamp_of(path / RACE))).encode(errors="replace")
        ).hexdigest()
        times = [modified / 1e9 for run in runs for modified, _ in run.stamp]
        moved = max([*times, *(job.time for job in progress.jobs)], default=0.0)
        return SeenSweep(name, path, is_launched, tuple(runs), progress, moved, version[:20])


def stamp_of(path: Path) -> tuple[int, int]:
    """When a file was last written, in nanoseconds, and its size; nothing where there is none."""
    try:
        about = path.lstat()
    except OSError:
        return 0, 0
    return about.st_mtime_ns, about.st_size
