"""The launches of a sweep as their files tell: what each planned, what has begun, who goes on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lmlab.errors import LabError
from lmlab.files import leads_out
from lmlab.sweeps.journal.journal import FAILED, FOLDER, Event, Journal
from lmlab.sweeps.journal.planned import LaunchPlan, Overrides, Work, size


class Launch:
    """One launch, followed: only new lines are read."""

    def __init__(self, path: Path):
        self.journal = Journal(path)
        self.events: dict[int, Event] = {}  # the last of each job
        self.begun: dict[int, float] = {}  # when, seconds since the epoch
        self.most_running = 1
        self._running: set[int] = set()
        self._plan_stamp = -1
        self.plan: LaunchPlan | None = None
        self.overrides: list[Overrides] | None = None  # of each job
        self.common: set[str] = set()  # overrides that all jobs have
        self.goes_on = False  # somebody, or a queue, begins what has not begun

    def look(self) -> None:
        """Read what is new."""
        path = self.journal.path.with_suffix(".json")
        with suppress(OSError):
            stamp = path.lstat().st_mtime_ns
            if stamp != self._plan_stamp:
                self._plan_stamp, self.plan = stamp, self.journal.plan
                words = self.plan.overrides if self.plan else None
                self.overrides = None if words is None else [tuple(job) for job in words]
                self.common = set.intersection(*map(set, words)) if words else set()
        with suppress(LabError, TypeError):  # half a line; a list as a job's number
            for event in self.journal.news():
                self._take(event)
        self.goes_on = self.journal.is_launching

    def is_queued(self, submitted_again: set[Overrides]) -> bool:
        """Whether some of its jobs wait or run without a process that gives them out. Those that
        were submitted again are not its any more."""
        if not self.journal.is_left_to_a_queue:
            return False
        ended = self.events.keys() - self._running
        if self.overrides is None:
            return len(ended) < self.n_planned
        left = [job for number, job in enumerate(self.overrides) if number not in ended]
        return any(job not in submitted_again for job in left)

    def _take(self, event: Event) -> None:
        if not (isinstance(event.job, int) and _is_number(event.time)):
            return  # somebody else's file
        self.events[event.job] = event
        if event.status == "running":
            self.begun[event.job] = event.time
            self._running.add(event.job)
            self.most_running = max(self.most_running, len(self._running))
        else:
            self._running.discard(event.job)

    def asked(self, job: int) -> Overrides | None:
        """The overrides of a job; None where nobody has said."""
        planned = self.overrides or []
        return planned[job] if 0 <= job < len(planned) else None

    @property
    def n_planned(self) -> int:
        return self.plan.n_jobs if self.plan else len(self.events)

    @property
    def began(self) -> float:
        """Seconds since the epoch."""
        times = [*self.begun.values()]
        return self.plan.began if self.plan and self.plan.began else min(times, default=0.0)

    def seconds(self, job: int) -> float | None:
        """What a job took from its beginning to its end; None if it was not trained to its end."""
        event = self.events[job]
        if event.status in (*FAILED, "running", "skipped") or event.trained is not True:
            return None  # a failure takes as long as it takes
        return max(0.0, event.time - self.begun.get(job, event.time))

    def work(self, known: dict[int, Work]) -> list[Work] | None:
        """What each job takes, by the plan or by those whose runs tell, by number; None: all the
        same, or nobody has said which jobs there are."""
        if self.plan is None or self.plan.work is None or self.overrides is None:
            return None
        of_sizes: dict[Overrides, Work] = {}
        for job, work in known.items():
            if (overrides := self.asked(job)) is not None:
                of_sizes.setdefault(size(overrides), work)
        return [
            planned if planned.flops is not None else of_sizes.get(size(words), planned)
            for words, planned in zip(self.overrides, self.plan.work, strict=True)
        ]


class Launches:
    """Those of one sweep, in the order in which they began."""

    def __init__(self, sweep: Path):
        self.sweep = sweep
        self._launches: dict[Path, Launch] = {}

    def look(self) -> list[Launch]:
        """As they are now."""
        folder, paths = self.sweep / FOLDER, set[Path]()
        if not leads_out(folder, self.sweep):
            with suppress(OSError):
                paths = {path for path in folder.iterdir() if path.suffix == ".jsonl"}
        self._launches = {
            path: self._launches[path] if path in self._launches else Launch(path) for path in paths
        }
        for launch in self._launches.values():
            launch.look()
        launches = sorted(self._launches.values(), key=lambda launch: launch.began)
        submitted_again = set[Overrides]()
        for launch in reversed(launches):
            launch.goes_on = launch.goes_on or launch.is_queued(submitted_again)
            submitted_again.update(launch.overrides or ())
        return launches


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
