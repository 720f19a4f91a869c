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

from lmlab.files import is_locked
from lmlab.runs.directory import RECORD
from lmlab.sweeps.launch.journal import JOB_LOCK, Event
from lmlab.sweeps.launch.planned import Overrides, Work
from lmlab.sweeps.live.jobs_runs import Runs
from lmlab.sweeps.live.launches import Launch, Launches
from lmlab.sweeps.live.time_left import Running, TimeLeft, time_left
from lmlab.sweeps.table.reading import SEED, RunFiles
from lmlab.sweeps.table.values import canonical

YOUNG = 3.0  # seconds that a job has to come to the lock of its run
ENDED = ("done", "pruned")
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
    rate: float | None = None  # steps a second, of one that is running
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


def told_by_runs(runs: Sequence[RunFiles]) -> SweepProgress:
    """How far some runs are, whoever trains them."""
    by_name = {run.path.name: run for run in runs}
    jobs = tuple(_of_run(run, run.status, time.time()) for run in runs)
    return SweepProgress(jobs, 0, 0, False, None, None, "", _best(jobs, by_name))


class Watched:
    """A sweep's folder that is looked at again and again: only what has changed is read."""

    def __init__(self, sweep: Path):
        self.sweep = sweep
        self._launches, self._runs = Launches(sweep), Runs(sweep)

    def look(self, runs: Iterable[RunFiles] | None = None) -> SweepProgress:
        """How far it is, given the runs in its folder as they have just been read; None: they are
        read here, as much of them as it takes."""
        now = time.time()
        every = list(self._runs.look() if runs is None else runs)
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
        told = {by_name[name].path for name in by_name.keys() & jobs.keys()}
        others = [_of_run(run, run.status, now) for run in every if run.path not in told]
        for overrides in waiting & places.keys():  # it ended before, and comes again
            if jobs[places[overrides]].status in ENDED:
                waiting.discard(overrides)
            else:
                del jobs[places[overrides]]
        searched = [launch for launch in going_on if launch.overrides is None]
        n_searched = [max(0, one.n_planned - len(one.events)) for one in searched]
        return SweepProgress(
            jobs=(*others, *sorted(jobs.values(), key=lambda job: job.time)),
            n_waiting=len(waiting) + max(n_searched, default=0),
            n_not_begun=len(not_begun - places.keys()) + _n_not_asked(launches),
            is_launching=bool(going_on),
            left=_time_left(going_on, jobs, by_name, waiting),
            began=min((launch.began for launch in going_on), default=None),
            launcher=next((one.plan.launcher for one in reversed(going_on) if one.plan), ""),
            best=_best([*jobs.values(), *others], by_name),
        )

    def _job(
        self, number: int, event: Event, launch: Launch, run: RunFiles | None, now: float
    ) -> JobProgress:
        status = str(event.status)
        if status == "running":
            status = self._at_work(event, launch, run, now)
        elif run is not None and not launch.goes_on:
            status = run.status  # it may have gone on by itself since
        if run is not None:
            error = "" if status in ENDED else str(event.error or run.error)
            return _of_run(run, status, now, error, event.time)
        asked = launch.asked(number) or ()
        varied = " ".join(word for word in asked if word not in launch.common)
        name = _name(event) or varied or f"job {number}"
        loss = event.loss if isinstance(event.loss, int | float) else None
        return JobProgress(
            name, status, loss=loss, error=str(event.error or ""), time=float(event.time)
        )

    def _at_work(self, event: Event, launch: Launch, run: RunFiles | None, now: float) -> str:
        """How a job is of which nobody has said that it ended."""
        if run is not None and run.status == "running":
            return "running"
        name = _name(event)
        is_young = now - event.time < YOUNG
        if is_young or (name and is_locked(self.sweep / name / JOB_LOCK, self.sweep)):
            return "running"  # it has still to come to its run
        if run is not None:
            return run.status
        # Its run is kept elsewhere: who launched it would know of its end.
        return "running" if launch.journal.is_launching else "killed"


def _name(event: Event) -> str:
    """The name of a job's run directory, which says where to look in the folder of the sweep."""
    name = Path(event.run).name if isinstance(event.run, str) else ""
    return "" if "\0" in name or len(name) > 255 else name


def _of_run(
    run: RunFiles, status: str, now: float, error: str | None = None, since: float = 0.0
) -> JobProgress:
    """What the files of a run say of it."""
    figures, config, metrics = run.figures(), run.config or {}, run.record.get("metrics")
    step, seconds, most = figures["step"], figures["seconds"], config.get("trainer.max_steps")
    last = metrics.get("val/loss") if isinstance(metrics, dict) else None
    last = figures["best val/loss"] if not isinstance(last, int | float) else last
    job = JobProgress(
        name=run.path.name,
        status=status,
        path=run.path,
        step=step,
        max_steps=most if isinstance(most, int) else None,
        loss=figures["val/loss_full"] if status == "done" else last,
        error=run.error if error is None else error,
        time=since,
    )
    if status != "running" or not (step and seconds and job.max_steps):
        return job
    every = config.get("eval.every")
    pace = seconds / step  # evaluations and all
    ahead = min((now - _written(run)) / pace, every if isinstance(every, int) else 0)
    place = min(step + max(0.0, ahead), job.max_steps)
    left = (job.max_steps - place) * pace
    return replace(job, place=place, rate=_rate(run), left=left)


def _written(run: RunFiles) -> float:
    """When its record was last written, seconds since the epoch."""
    try:
        return (run.path / RECORD).lstat().st_mtime
    except OSError:
        return math.inf


def _rate(run: RunFiles) -> float | None:
    """Steps a second between two evaluations, by the tokens that each has."""
    speed, before = run.record.get("tokens_per_second"), run.before
    tokens, step = run.figures()["tokens"], run.figures()["step"]
    if not isinstance(speed, int | float) or not tokens or step <= before["step"]:
        return None
    of_a_step = (tokens - before["tokens"]) / (step - before["step"])
    return speed / of_a_step if of_a_step > 0 and math.isfinite(speed) else None


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
    runs: Mapping[str, RunFiles],
    waiting: set[Overrides],
) -> TimeLeft | None:
    """The time left of what goes on."""
    now = time.time()
    ended: list[tuple[Work, float]] = []
    running: list[Running] = []
    to_come: list[Work] = []
    for launch in launches:
        own = {number: _name(event) for number, event in launch.events.items()}
        known = {number: _work(runs[name]) for number, name in own.items() if name in runs}
        works = launch.work({number: work for number, work in known.items() if work is not None})
        for number, name in own.items():
            is_planned = works is not None and 0 <= number < len(works)
            work = works[number] if works is not None and is_planned else Work()
            job, seconds = jobs.get(name), launch.seconds(number)
            if seconds is None and job is not None and job.status == "done" and name in runs:
                seconds = runs[name].figures()["seconds"]  # it was done before
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
    return time_left(ended, running, to_come, sum(launch.most_running for launch in launches))


def _work(run: RunFiles) -> Work | None:
    """What a run takes from its first step to its last, once it has taken some."""
    figures, before = run.figures(), run.before
    step, flops = figures["step"], figures["flops"]
    most = step if run.status == "done" else (run.config or {}).get("trainer.max_steps")
    if not isinstance(most, int) or flops is None or not step or step <= before["step"]:
        return None
    a_step = (flops - before["flops"]) / (step - before["step"])
    return Work(steps=most, flops=max(0.0, round(a_step * (most - before["step"]))))


def _best(jobs: Iterable[JobProgress], runs: Mapping[str, RunFiles]) -> JobProgress | None:
    """The job that is done with the lowest loss, of those whose settings have no seed that
    diverged; None where losses are of different tokens."""
    done = [job for job in jobs if job.status == "done" and job.name in runs]
    diverged = {_setting(run) for run in runs.values() if run.diverged}
    of = [(job, runs[job.name]) for job in done if job.loss is not None]
    if len({_tokens(run) for _, run in of}) > 1:
        return None
    whole = [job for job, run in of if _setting(run) not in diverged]
    return min(whole, key=lambda job: job.loss or math.inf, default=None)


def _setting(run: RunFiles) -> str:
    """What it shares with runs that differ in nothing but the seed, as far as the sweep tells."""
    return canonical({key: value for key, value in run.swept.items() if key != SEED})


def _tokens(run: RunFiles) -> str:
    """What its losses are of, as far as its record tells."""
    keys = {key: value for key, value in run.swept.items() if key.startswith("tokenizer")}
    return canonical([keys, run.choices.get("tokenizer"), run.recorded_keys["corpus_sha256"]])
