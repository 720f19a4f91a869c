"""How far a sweep is, by its files: the plans and journals of its launches, and its runs.

Nothing here is tied to a terminal, and nothing is written: any process may look, on any
machine. What files say is taken for texts and numbers, whoever wrote them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lmlab.bounds import LARGEST
from lmlab.files import is_locked
from lmlab.runs.directory import RECORD
from lmlab.sweeps.journal.journal import JOB_LOCK, Event
from lmlab.sweeps.journal.planned import Overrides, Work
from lmlab.sweeps.live.jobs_runs import Runs
from lmlab.sweeps.live.launches import Launch, Launches
from lmlab.sweeps.live.time_left import Running, TimeLeft, time_left
from lmlab.sweeps.table.reading import SEED, RunFiles
from lmlab.sweeps.table.values import canonical

YOUNG = 3.0  # seconds that a job has to come to the lock of its run
ENDED = ("done", "pruned")
CENTURIES = 1e10  # seconds: somebody's record may hold any number
MOST = 10_000  # jobs whose time is added up: somebody's plan may have any number


@dataclass(frozen=True)
class JobProgress:
    """One job that has begun. None: not known, or not yet."""

    name: str  # of its run directory, or what was asked for
    status: str  # running, or how it ended
    path: Path | None = None  # its run, where there is one in the sweep's folder
    step: int | None = None  # of the last evaluation
    place: float | None = None  # where a running one is by now, going by its pace
    max_steps: int | None = None
    loss: float | None = None  # val/loss_full of one that is done, else the last val/loss
    rate: float | None = None  # steps a second, evaluations and all, of one that is running
    left: float | None = None  # seconds, by its own pace
    error: str = ""
    time: float = 0.0  # when it began or ended, seconds since the epoch


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is."""

    jobs: tuple[JobProgress, ...]  # that have begun; those of launches as they began or ended
    n_waiting: int  # planned, and somebody is there who begins them, or a queue
    n_not_begun: int  # planned by a launch that is gone; the same command begins them
    is_launching: bool  # a process, or a queue, gives out jobs
    left: TimeLeft | None
    began: float | None  # the launch that goes on, seconds since the epoch
    launcher: str  # what trains its jobs
    best: JobProgress | None  # of those that can be compared

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many jobs there are of each status, `waiting` and `not begun` among them."""
        counts = Counter(job.status for job in self.jobs)
        counts.update({"waiting": self.n_waiting, "not begun": self.n_not_begun})
        return {status: n for status, n in counts.items() if n}

    @cached_property
    def by_path(self) -> dict[Path, JobProgress]:
        """The jobs that have a run in the folder of the sweep."""
        return {job.path: job for job in self.jobs if job.path is not None}

    @property
    def n_jobs(self) -> int:
        """Those that have begun, and all that were planned."""
        return len(self.jobs) + self.n_waiting + self.n_not_begun

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens by itself."""
        return not (self.is_launching or "running" in self.counts)


def told_by_runs(runs: Iterable[RunFiles]) -> SweepProgress:
    """How far some runs are, whoever trains them."""
    every = [_Run(run) for run in runs]
    jobs = tuple(_of_run(run, run.files.status, time.time()) for run in every)
    return SweepProgress(jobs, 0, 0, False, None, None, "", _best(jobs, every))


class Watched:
    """A sweep's folder that is looked at again and again: only what has changed is read."""

    def __init__(self, sweep: Path):
        self.sweep = sweep
        self._launches, self._runs = Launches(sweep), Runs(sweep)
        self._known: dict[Path, _Run] = {}

    def look(self, runs: Iterable[RunFiles] | None = None) -> SweepProgress:
        """How far it is, given the runs in its folder as they have just been read; None: they are
        read here, as much of them as it takes."""
        now = time.time()
        every = self._as_known(self._runs.look() if runs is None else runs)
        by_name = {run.path.name: run for run in every if run.path.parent == self.sweep}
        launches = self._launches.look()
        going_on = [launch for launch in launches if launch.goes_on]
        jobs: dict[str, JobProgress] = {}
        places: dict[Overrides, str] = {}  # where the job with these overrides is among `jobs`
        for launch in launches:
            for number, event in launch.events.items():
                key = _name(event) or f"{launch.journal.path.name} {number}"
                jobs.pop(key, None)  # a later launch took it up
                jobs[key] = self._job(number, event, launch, by_name.get(key), now)
                if (overrides := launch.asked(number)) is not None:
                    places[overrides] = key
        waiting, not_begun = _not_begun(launches)
        of_jobs = {by_name[name].path for name in by_name.keys() & jobs.keys()}
        others = [_of_run(run, run.files.status, now) for run in every if run.path not in of_jobs]
        for overrides in waiting & places.keys():  # it ended before, and comes again
            if jobs[places[overrides]].status in ENDED:
                waiting.discard(overrides)
            else:
                del jobs[places[overrides]]
        launched = {_name(event) for one in going_on for event in one.events.values()}
        alone = [job.left for job in (*jobs.values(), *others) if job.name not in launched]
        searched = [launch for launch in going_on if launch.overrides is None]
        n_searched = [max(0, one.n_planned - len(one.events)) for one in searched]
        return SweepProgress(
            jobs=(*others, *sorted(jobs.values(), key=lambda job: job.time)),
            n_waiting=len(waiting) + max(n_searched, default=0),
            n_not_begun=len(not_begun - places.keys()) + _n_not_asked(launches),
            is_launching=bool(going_on),
            left=_longest(_time_left(going_on, jobs, by_name, set(waiting)), alone),
            began=min((launch.began for launch in going_on), default=None),
            launcher=next((one.plan.launcher for one in reversed(going_on) if one.plan), ""),
            best=_best([*jobs.values(), *others], every),
        )

    def _as_known(self, runs: Iterable[RunFiles]) -> list[_Run]:
        """Runs with what was found out about those that are as they were."""
        every = []
        for files in runs:
            before = self._known.get(files.path)
            every.append(before if before and before.files is files else _Run(files))
        self._known = {run.path: run for run in every}
        return every

    def _job(
        self, number: int, event: Event, launch: Launch, run: _Run | None, now: float
    ) -> JobProgress:
        status = str(event.status)
        if status == "running":
            status = self._at_work(event, launch, run, now)
        elif run is not None and not launch.goes_on:
            status = run.files.status  # it may have gone on by itself since
        if run is not None:
            error = "" if status in ENDED else str(event.error or run.files.error)
            return _of_run(run, status, now, error, event.time)
        asked = launch.asked(number) or ()
        varied = " ".join(word for word in asked if word not in launch.common)
        name = _name(event) or varied or f"job {number}"
        loss = event.loss if isinstance(event.loss, int | float) else None
        return JobProgress(
            name, status, loss=loss, error=str(event.error or ""), time=float(event.time)
        )

    def _at_work(self, event: Event, launch: Launch, run: _Run | None, now: float) -> str:
        """How a job is of which nobody has said that it ended."""
        if run is not None and run.files.status == "running":
            return "running"
        name = _name(event)
        is_young = now - event.time < YOUNG
        if is_young or (name and is_locked(self.sweep / name / JOB_LOCK, self.sweep)):
            return "running"  # it has still to come to its run
        if run is not None:
            return run.files.status
        # Its run is kept elsewhere: who launched it would know of its end.
        return "running" if launch.journal.is_launching else "killed"


def _name(event: Event) -> str:
    """The name of a job's run directory, which says where to look in the folder of the sweep."""
    name = Path(event.run).name if isinstance(event.run, str) else ""
    return "" if "\0" in name or len(name) > 255 else name


class _Run:
    """A run, and what follows from its files, found out once."""

    def __init__(self, files: RunFiles):
        self.files, self.path = files, files.path

    @cached_property
    def figures(self) -> dict[str, Any]:
        return self.files.figures()

    @cached_property
    def max_steps(self) -> int | None:
        config = self.files.config or {}
        most = self.figures["step"] if self.files.status == "done" else None
        most = config.get("trainer.max_steps", most)
        return most if isinstance(most, int) and 0 <= most < 2**63 else None

    @cached_property
    def seconds(self) -> float | None:
        """Of training; None where its record has no such time."""
        seconds = self.figures["seconds"]
        return seconds if seconds is not None and 0 <= seconds < CENTURIES else None

    @cached_property
    def last_loss(self) -> float | None:
        """val/loss_full of one that is done, else the last val/loss."""
        if self.files.status == "done":
            return self.figures["val/loss_full"]
        metrics = self.files.record.get("metrics")
        last = metrics.get("val/loss") if isinstance(metrics, dict) else None
        return float(last) if isinstance(last, int | float) else self.figures["best val/loss"]

    @cached_property
    def work(self) -> Work | None:
        """What it takes from its first step to its last, once it has taken some."""
        before, step, flops = self.files.before, self.figures["step"], self.figures["flops"]
        if self.max_steps is None or flops is None or not step or step <= before["step"]:
            return None
        n_steps = self.max_steps - before["step"]
        a_step = (flops - before["flops"]) / (step - before["step"])
        whole = a_step * n_steps
        if n_steps < 0 or not 0 <= whole < LARGEST:
            return None
        return Work(steps=self.max_steps, flops=float(round(whole)))

    @cached_property
    def setting(self) -> str:
        """What it shares with runs that differ in nothing but the seed, as far as is known."""
        return canonical({key: value for key, value in self.files.swept.items() if key != SEED})

    @cached_property
    def tokens(self) -> str:
        """What its losses are of, as far as its record tells."""
        swept, corpus = self.files.swept, self.files.recorded_keys["corpus_sha256"]
        keys = {key: value for key, value in swept.items() if key.startswith("tokenizer")}
        return canonical([keys, self.files.choices.get("tokenizer"), corpus])


def _of_run(
    run: _Run, status: str, now: float, error: str | None = None, since: float = 0.0
) -> JobProgress:
    """What a run says of its job."""
    step, seconds, most = run.figures["step"], run.seconds, run.max_steps
    job = JobProgress(
        name=run.path.name,
        status=status,
        path=run.path,
        step=step,
        max_steps=most,
        loss=run.last_loss,
        error=run.files.error if error is None else error,
        time=since,
    )
    if status != "running" or not (step and step > 0 and seconds and most):
        return job
    every = (run.files.config or {}).get("eval.every")
    pace = seconds / step  # evaluations and all
    ahead = min((now - _written(run.path)) / pace, every if isinstance(every, int) else 0)
    place = min(step + max(0.0, ahead), most)
    left = min(max(0.0, (most - place) * pace), CENTURIES)
    return replace(job, place=place, rate=1 / pace, left=left)


def _written(run: Path) -> float:
    """When its record was last written, seconds since the epoch."""
    try:
        return (run / RECORD).lstat().st_mtime
    except OSError:
        return math.inf


def _not_begun(launches: Sequence[Launch]) -> tuple[set[Overrides], set[Overrides]]:
    """The jobs that wait for their turn, and those that nobody is going to begin."""
    begun, waiting, not_begun = set[Overrides](), set[Overrides](), set[Overrides]()
    for launch in launches:
        for number, overrides in enumerate(launch.overrides or ()):
            if number not in launch.events:
                (waiting if launch.goes_on else not_begun).add(overrides)
            elif launch.goes_on:
                begun.add(overrides)
    return waiting - begun, not_begun - waiting - begun


def _n_not_asked(launches: Sequence[Launch]) -> int:
    """How many trials the last search left, if nobody has gone on with it."""
    searches = [launch for launch in launches if launch.overrides is None]
    if not searches or any(launch.goes_on for launch in launches):
        return 0
    return max(0, searches[-1].n_planned - len(searches[-1].events))


def _time_left(
    launches: Sequence[Launch],
    jobs: Mapping[str, JobProgress],
    runs: Mapping[str, _Run],
    waiting: set[Overrides],
) -> TimeLeft | None:
    """The time left of what goes on."""
    now = time.time()
    ended: list[tuple[Work, float]] = []
    running: list[Running] = []
    to_come: list[Work] = []
    for launch in launches:
        own = {number: _name(event) for number, event in launch.events.items()}
        known = {number: runs[name].work for number, name in own.items() if name in runs}
        works = launch.work({number: work for number, work in known.items() if work is not None})
        for number, name in own.items():
            is_planned = works is not None and 0 <= number < len(works)
            work = works[number] if works is not None and is_planned else Work()
            job, seconds = jobs.get(name), launch.seconds(number)
            if seconds is None and job is not None and job.status == "done" and name in runs:
                seconds = runs[name].seconds  # it was done before
            if job is not None and job.status == "running":
                taken = now - launch.begun.get(number, now)
                running.append(Running(work, taken, job.left))
            elif seconds is not None:
                ended.append((work, seconds))
        if launch.overrides is None:
            to_come += [Work()] * max(0, min(MOST, launch.n_planned - len(own)))
        else:
            for number, overrides in enumerate(launch.overrides):
                if overrides in waiting:
                    to_come.append(works[number] if works is not None else Work())
                    waiting.discard(overrides)  # of two launches that have it, it is trained by one
    left = time_left(ended, running, to_come, sum(launch.most_running for launch in launches))
    if left is not None and any(
        launch.plan is not None and launch.plan.grows for launch in launches
    ):
        return replace(left, is_least=True)
    return left


def _longest(left: TimeLeft | None, alone: Iterable[float | None]) -> TimeLeft | None:
    """The time left of launches, and of runs that nobody waits for."""
    known = [seconds for seconds in alone if seconds is not None]
    if not known:
        return left
    return replace(left or TimeLeft(0.0), seconds=max(left.seconds if left else 0.0, *known))


def _best(jobs: Iterable[JobProgress], runs: Iterable[_Run]) -> JobProgress | None:
    """The job that is done with the lowest loss, of those whose settings have no seed that
    diverged; None where losses are of different tokens."""
    by_path = {run.path: run for run in runs}
    diverged = {run.setting for run in by_path.values() if run.figures["diverged"]}
    done = [job for job in jobs if job.status == "done" and job.loss is not None]
    of_runs = [(job, by_path[job.path]) for job in done if job.path in by_path]
    if len({run.tokens for _, run in of_runs}) > 1:
        return None
    whole = [job for job, run in of_runs if run.setting not in diverged]
    return min(whole, key=lambda job: job.loss or math.inf, default=None)
