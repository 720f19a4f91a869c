"""What the jobs of one launch say: a file that each adds lines to, in whatever process it runs."""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock

from lmlab.errors import LabError
from lmlab.files import is_locked, lock_at, make_folder, open_to_read, write_atomically
from lmlab.sweeps.journal.planned import LaunchPlan

FOLDER = ".launches"
PLAN, LOCK = ".json", ".lock"  # beside a journal
JOB_LOCK = ".job.lock"  # held from the first look at a run to its end; its own, while it trains
MOST_NEWS = 1 << 24  # bytes read at once; the rest is there next time
MULTIRUN = "multirun.yaml"  # what Hydra composed for the sweep

# What shows the news of a launch, by its journal, in the process that launched: a job that ends
# there has its end said before the next begins.
followers: dict[Path, Callable[[], None]] = {}
# Journals of launches that are shown in a table: then their jobs print nothing beside it.
in_tables: set[Path] = set()


class Result(float):
    """What a job gives back to its sweeper: val/loss_full (NaN where there is none), and its run.

    A float, so that any sweeper can make something of it.
    """

    run: str | None  # the run directory
    # done, paused, pruned, failed, killed; skipped (after a failure), planned (dry_run); on a
    # cluster running or submitted, too
    status: str
    error: str | None  # why it failed
    diverged: bool  # its loss became infinite or NaN

    def __new__(
        cls,
        loss: float | None,
        run: str | None,
        status: str,
        error: str | None = None,
        diverged: bool = False,
    ) -> Result:
        result = super().__new__(cls, math.nan if loss is None else loss)
        result.run, result.status = run, status
        result.error, result.diverged = error, diverged
        return result

    def __reduce__(self) -> Any:
        return Result, (float(self), self.run, self.status, self.error, self.diverged)


@dataclass(frozen=True)
class Event:
    """A job has begun, or has ended."""

    job: int  # its number in the launch
    status: str  # running, or how it ended
    time: float  # seconds since the epoch
    run: str | None = None
    loss: float | None = None  # val/loss_full, nats per token
    trained: bool = False  # False: it was done before
    error: str | None = None
    setting: str | None = None  # shared by jobs that differ in nothing but the seed
    diverged: bool = False

    @property
    def result(self) -> Result:
        return Result(self.loss, self.run, self.status, self.error, self.diverged)


@dataclass
class Journal:
    """The events of one launch of jobs. Lines are short and appended whole, so none is torn."""

    path: Path
    _read: int = 0  # bytes
    last: dict[int, Event] = field(default_factory=dict)  # by job
    _lock: filelock.BaseFileLock | None = None  # held while this process launches

    @classmethod
    def create(cls, sweep_dir: Path, plan: LaunchPlan) -> Journal:
        """A new one, with the plan of the launch beside it. A process that gives out jobs holds a
        lock, too: it is free once that process is gone.

        Raises:
            LabError: if it cannot be written.
        """
        folder = sweep_dir / FOLDER
        make_folder(folder, within=sweep_dir)
        # The name says which process prints; a job in another one keeps quiet.
        journal = cls(folder / f"{plan.pid or 0}-{secrets.token_hex(4)}.jsonl")
        if plan.pid is not None:
            journal._lock = lock_at(journal.path.with_suffix(LOCK), within=sweep_dir)
            journal._lock.acquire()
        journal.note(plan)
        write_atomically(journal.path, b"", within=sweep_dir)
        return journal

    def note(self, plan: LaunchPlan) -> None:
        """Keep what is planned, in the place of what was.

        Raises:
            LabError: if it cannot be written.
        """
        plan.write(self.path.with_suffix(PLAN), within=self.path.parent.parent)

    @property
    def plan(self) -> LaunchPlan | None:
        """What the launch is going to do; None where nobody wrote it down."""
        return LaunchPlan.read(self.path.with_suffix(PLAN))

    @property
    def is_launching(self) -> bool:
        """Whether a process gives out the jobs of this launch, now."""
        return is_locked(self.path.with_suffix(LOCK), self.path.parent)

    @property
    def is_left_to_a_queue(self) -> bool:
        """Whether its jobs begin without a process that gives them out."""
        return self.path.name.startswith("0-")

    def remove(self) -> None:
        """Leave nothing behind of a launch whose end was said, nor of those before it that were
        killed, where this one had all of their jobs."""
        plan = self.plan
        for path in self.path.parent.glob("*.jsonl"):
            other = Journal(path)
            if other.is_left_to_a_queue or other.is_launching:
                continue
            if plan is not None and plan.covers(other.plan):
                other.discard()
        self.discard()

    def close(self) -> None:
        """This process gives out no more of its jobs."""
        if self._lock is not None:
            self._lock.release()

    def discard(self) -> None:
        """Delete all of it."""
        self.close()
        for suffix in (".jsonl", PLAN, LOCK):
            self.path.with_suffix(suffix).unlink(missing_ok=True)

    def key(self, job: int) -> str:
        """The value of sweep.job for one of its jobs; `Entry.of` reads it."""
        return f"{self.path.stem}/{job}"

    @property
    def is_ours(self) -> bool:
        """Whether this process is the one that launched."""
        return self.path.name.startswith(f"{os.getpid()}-")

    def add(self, event: Event) -> None:
        """
        Raises:
            LabError: if it cannot be written.
        """
        line = json.dumps(asdict(event)) + "\n"
        try:
            with self.path.open("ab", buffering=0) as file:
                file.write(line.encode())
        except OSError as error:
            raise LabError(f"cannot write {self.path}: {error.strerror or error}") from error

    def news(self) -> list[Event]:
        """The events since the last call.

        Raises:
            LabError: if they cannot be read.
        """
        try:
            with open_to_read(self.path, within=self.path.parent) as file:
                file.seek(self._read)
                lines = file.read(MOST_NEWS).splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            events = [Event(**json.loads(line)) for line in whole]
        except (OSError, ValueError, TypeError) as error:
            raise LabError(f"{self.path} cannot be read: {error}") from error
        self._read += sum(map(len, whole))
        self.last |= {event.job: event for event in events}
        return events

    def is_running(self, job: int) -> bool:
        """Whether a job had begun and not ended, at the last news."""
        return job in self.last and self.last[job].status == "running"

    def has_failed(self) -> bool:
        """Whether any job has, so far."""
        self.news()
        return any(event.status in FAILED for event in self.last.values())


@dataclass(frozen=True)
class Entry:
    """One job's place in the journal of its launch."""

    journal: Journal
    job: int

    @classmethod
    def of(cls, sweep_dir: Path, key: str) -> Entry:
        """The place that `Journal.key` stands for."""
        stem, _, job = key.partition("/")
        return cls(Journal(sweep_dir / FOLDER / f"{stem}.jsonl"), int(job))

    def add(self, status: str, **more: Any) -> None:
        """Note that the job is running, or how it ended."""
        self.journal.add(Event(self.job, status, time.time(), **more))
        if self.journal.is_ours:
            followers.get(self.journal.path, lambda: None)()


FAILED = ("failed", "killed")
