"""Launching a sweep's jobs: one loop over a pool, whatever the pool is; killed jobs; the end.

A pool distributes the work; all that is known here comes from the journal that the jobs write.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import filelock

from lmlab.config.words.explain import is_explained
from lmlab.config.words.hydra_inside import raised_by
from lmlab.console import say
from lmlab.errors import LabError
from lmlab.files import lock_at
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.journal.journal import FAILED, JOB_LOCK, Event, Journal, Result
from lmlab.sweeps.journal.planned import LaunchPlan, Work
from lmlab.sweeps.launch.progress import Progress, progress_shown

if TYPE_CHECKING:
    from lmlab.sweeps.launch.before import EndedBefore
    from lmlab.sweeps.launch.pool import Ended, Job, Pool

KILLED = "its process was killed (SIGKILL; out of memory?)"


def launch(
    pool: Pool,
    sweep_dir: Path,
    jobs: Sequence[Sequence[str]],
    work: Sequence[Work] | None = None,
    before: EndedBefore | None = None,
) -> list[Result]:
    """Run jobs, each given as overrides, and return their results in the same order. `work` is what
    each takes; None: all of them the same. `before` knows those that have ended before.

    Raises:
        LabError: if the launcher does not begin.
    """
    left = iter(jobs)
    progress = Progress(len(jobs), _have_one_unit(jobs))
    plan = LaunchPlan.of(len(jobs), launcher_name(pool.launcher), jobs, work, pool.at_once)
    ask = partial(next, left, None)
    return run_jobs(pool, sweep_dir, ask, progress, plan=plan, before=before)


def run_jobs(
    pool: Pool,
    sweep_dir: Path,
    ask: Callable[[], Sequence[str] | None],
    progress: Progress,
    tell: Callable[[int, Result], None] = lambda number, result: None,
    plan: LaunchPlan | None = None,
    before: EndedBefore | None = None,
) -> list[Result]:
    """Run jobs, each asked for when the pool has room for it; the results in the order of asking.

    `ask` gives the overrides of the next job, or None for now; `tell` is told the number of each
    that has ended, counted from 0, before anything more is asked for. `plan` says what will be
    asked for, where that is known: of a search it is how many, at most. What `before` knows to have
    ended is not given to the pool.

    A failure ends only its own job. A job whose process was killed is run again by itself, once the
    others have ended; if it is killed again, it is recorded as killed.

    Raises:
        LabError: if the launcher does not begin, or leaves out a job.
    """
    planned = plan or _searched(pool, progress)
    journal = Journal.create(sweep_dir, planned)
    given: list[list[str]] = []
    results: dict[int, Result] = {}
    killed: list[int] = []
    put_back: list[int] = []  # given to a launcher that died before it came to them

    def next_job() -> Job | None:
        nonlocal planned
        if killed:
            return None
        while not put_back:
            words = ask()
            if progress.total != planned.n_jobs:  # another process has taken trials of the study
                planned = _searched(pool, progress, planned.began)
                journal.note(planned)
            if words is None:
                return None
            number = len(given)
            given.append([*words, f"sweep.job={journal.key(number)}"])
            event = None if before is None else before.event(number, words)
            if event is None:
                put_back.append(number)
            else:
                journal.add(event)
                end(number, event.result)
        number = put_back.pop(0)
        return number, given[number]

    def end(number: int, result: Result) -> None:
        results[number] = result
        tell(number, result)

    def take(ended: Ended) -> list[int]:
        """Note how jobs have ended; those that have only begun."""
        if isinstance(ended.died, SystemExit | KeyboardInterrupt):  # it was asked to stop
            raise ended.died
        journal.news()
        unbegun = [number for number in ended.numbers if number not in journal.last]
        if unbegun and (ended.died is None or unbegun == ended.numbers):
            _refuse(pool, ended, len(unbegun))
        if ended.died is not None:
            say(f"a worker died ({_in_short(ended.died)})")
        put_back.extend(unbegun)
        for number in ended.numbers:
            if number in journal.last and not journal.is_running(number):
                end(number, journal.last[number].result)
        return [number for number in ended.numbers if journal.is_running(number)]

    with closing(journal), progress_shown(journal, progress):
        while True:
            for ended in pool.run(next_job):
                killed += take(ended)
            _wait_for_workers(journal, killed)
            for number in killed:
                once = iter([(number, given[number])] if journal.is_running(number) else [])
                for ended in pool.run(partial(next, once, None)):
                    take(ended)
                _wait_for_workers(journal, [number])
                if journal.is_running(number):
                    _record_killed(journal, number)
                if number not in results:
                    end(number, journal.last[number].result)
            if not killed:
                break
            killed.clear()
    journal.remove()
    return [results[number] for number in sorted(results)]


def finish(
    sweep_dir: Path, results: Sequence[Result], advice: str = "the same command tries again"
) -> None:
    """The end of a sweep: what it found, and what failed. `advice` says what to do about it.

    Raises:
        LabError: if any job failed.
    """
    counts = Counter(result.status for result in results)
    failed = [result for result in results if result.status in FAILED]
    skipped = f", {counts['skipped']} not begun" if counts["skipped"] else ""
    # None in a dry run, nor where run_dir keeps them elsewhere.
    problem: LabError | None = None
    if any(result.run and sweep_dir in Path(result.run).parents for result in results):
        from lmlab.sweeps.reporting import report  # here, for it imports pandas

        try:
            report(sweep_dir)
        except LabError as error:
            problem = error
    if failed:
        no_report = "" if problem is None else f"; there is no report: {problem}"
        raise LabError(f"{len(failed)} of {len(results)} jobs failed{skipped}; {advice}{no_report}")
    if problem is not None:
        raise problem


def _refuse(pool: Pool, ended: Ended, n_left: int) -> NoReturn:
    """
    Raises:
        LabError: why jobs never began.
    """
    raised = [error for error in map(raised_by, ended.returned()) if error is not None]
    error = ended.died or next(iter(raised), None)
    if ended.died is not None and is_explained(ended.died):
        raise ended.died
    name = f"hydra/launcher={launcher_name(pool.launcher)}"
    if ended.died is None:
        name += f" left out {n_left} of {len(ended.numbers)} jobs"
    raise LabError(f"{name}: {_in_short(error)}") from error


def launcher_name(launcher: Any) -> str:
    """As it is chosen by, of a launcher of Hydra's: JoblibLauncher, joblib."""
    return type(launcher).__name__.removesuffix("Launcher").lower()


def _searched(pool: Pool, progress: Progress, began: float | None = None) -> LaunchPlan:
    plan = LaunchPlan.of(progress.total, launcher_name(pool.launcher), at_once=pool.at_once)
    plan = plan.model_copy(update={"grows": progress.grows})
    return plan if began is None else plan.model_copy(update={"began": began})


def _in_short(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:100]


def _wait_for_workers(journal: Journal, numbers: Collection[int]) -> None:
    """A launcher may come back before its workers do: until none of the jobs is being trained."""
    while any(journal.is_running(i) and _is_alive(journal.last[i]) for i in numbers):
        time.sleep(0.5)
        journal.news()


def _is_alive(event: Event) -> bool:
    """Whether a job that has begun still has a process."""
    folder = Path(str(event.run))
    try:
        with lock_at(folder / JOB_LOCK, folder).acquire(blocking=False):
            return time.time() - event.time < 3  # it may not have come to its lock yet
    except filelock.Timeout:
        return True
    except (OSError, LabError):  # no directory yet
        return time.time() - event.time < 3


def _record_killed(journal: Journal, number: int) -> None:
    from lmlab.display.for_tensorboard.event_files import show_killed

    path = Path(str(journal.last[number].run))
    RunDirectory(path).update(status="killed", error=KILLED)
    with suppress(OSError, LabError):  # a full disk: only the board lacks it
        show_killed(path)
    journal.add(Event(number, "killed", time.time(), run=str(path), trained=True, error=KILLED))
    journal.news()


def _have_one_unit(jobs: Sequence[Sequence[str]]) -> bool:
    """Whether all jobs have the same tokens, as far as their overrides say."""
    tokens = [[word for word in job if word.startswith(("tokenizer", "corpus"))] for job in jobs]
    return all(words == tokens[0] for words in tokens)
