"""Launching jobs by any of Hydra's launchers: progress, dead workers, the end.

Hydra distributes the work; all that is known here comes from the journal that the jobs write.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
from omegaconf import OmegaConf

from lmlab.config import schema
from lmlab.config.check import PARTS, check, check_plain, plain_of
from lmlab.config.words.explain import is_explained
from lmlab.console import say
from lmlab.errors import LabError
from lmlab.files import lock_at
from lmlab.runs.directory import LOG, RunDirectory
from lmlab.sweeps.launch.job import JOB_LOCK
from lmlab.sweeps.launch.journal import FAILED, Event, Journal, Result, followers
from lmlab.sweeps.launch.pool import check_settings, places_of

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.plugins.launcher import Launcher
    from omegaconf import DictConfig

    from lmlab.sweeps.launch.pool import Job, Places

KILLED = "its process was killed (SIGKILL; out of memory?)"


class Multirun(schema.Node):
    """What a sweep is kept by, before any of its jobs is checked."""

    output_dir: schema.Text
    run_dir: schema.Text | None
    sweep: schema.Sweep


def check_multirun(config: DictConfig) -> Multirun:
    """What a sweep is kept by.

    Raises:
        LabError: for what makes no sense.
    """
    run_dir = OmegaConf.to_container(config, resolve=False)["run_dir"]  # type: ignore[index, call-overload]
    return check(OmegaConf.masked_copy(config, ["output_dir", "sweep"]), Multirun, run_dir=run_dir)


def folder_of(config: DictConfig, n_jobs: int) -> Path:
    """Where a sweep of `n_jobs` jobs is kept.

    Raises:
        LabError: if that is no place for it, or the jobs would share one directory.
    """
    run_dir = check_multirun(config).run_dir
    if n_jobs > 1 and run_dir is not None and "${" not in str(run_dir):
        raise LabError(
            f"run_dir={run_dir}: {n_jobs} jobs cannot share one directory; leave it out, or name "
            f"one for each, such as run_dir={run_dir}/${{seed}}"
        )
    return Path(config.hydra.sweep.dir)


def check_some(
    config: DictConfig,
    loader: ConfigLoader,
    jobs: Sequence[Sequence[str]],
    searched: Collection[str] = (),
) -> None:
    """Whether any of the jobs can begin. Asked before a folder is made for them.

    A job that is refused for a key that is `searched` says nothing of other values. Parts are not
    imported for a sweep that has runs: the jobs do so, if anything is left to train.

    Raises:
        LabError: if each is refused, with what is said of the first.
    """
    from hydra.core.hydra_config import HydraConfig

    reasons = []
    parts = () if any(Path(config.hydra.sweep.dir).glob("*/run.json")) else PARTS
    hydra = HydraConfig.instance()
    before = hydra.cfg
    try:
        for job in jobs:
            cfg = loader.load_sweep_config(config, list(job))
            hydra.set_config(cfg)  # `${hydra:…}` is read from it
            if cfg["from"] is not None:  # what it is to be stands in its parent
                return
            own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            try:
                check_plain(plain_of(own), schema.Train, parts)
                return
            except LabError as error:
                if any(key in str(error) for key in searched):
                    return
                reasons.append(error)
    finally:
        hydra.cfg = before
    if reasons:
        n = f"each of the {len(reasons)} jobs is refused, the first: " * (len(reasons) > 1)
        raise LabError(f"{n}{reasons[0]}")


def launch(
    launcher: Launcher,
    sweep_dir: Path,
    jobs: Sequence[Sequence[str]],
    progress: Progress | None = None,
) -> list[Result]:
    """Run jobs, each given as overrides, and return their results in the same order.

    A sweeper that launches several times hands over its `progress`; the jobs are numbered on.

    A failure ends only its own job. Where a launcher gives up because a worker was killed, each job
    that was running is run again by itself, and if it is killed again, recorded as killed; then the
    others go on.

    Raises:
        LabError: if the launcher does not begin.
    """
    check_settings(launcher)
    progress = progress or Progress(len(jobs), _have_one_unit(jobs))
    places = places_of(launcher, len(jobs))
    if places is not None:
        left_to_do = iter(jobs)

        def ask() -> Sequence[str] | None:
            return next(left_to_do, None)

        with places:
            return keep_filled(places, sweep_dir, ask, lambda number, result: None, progress)
    journal = Journal.create(sweep_dir)
    first = len(progress.ended)
    overrides = {i: [*job, f"sweep.job={journal.key(i)}"] for i, job in enumerate(jobs, first)}
    results: dict[int, Result] = {}
    returned: list[Any] = []

    def run(numbers: list[int]) -> bool:
        """Launch some of the jobs together; whether the launcher came back."""
        came_back = True
        try:
            returned.extend(
                launcher.launch([overrides[i] for i in numbers], initial_job_idx=numbers[0])
            )
        except Exception as error:  # each launcher has its own for a worker that died
            journal.news()
            if not any(i in journal.last for i in numbers):  # the launcher itself is at fault
                if is_explained(error):
                    raise
                raise LabError(f"hydra/launcher={_name(launcher)}: {_in_short(error)}") from error
            say(f"a worker of the launcher died ({_in_short(error)})")
            came_back = False
        _wait_for_workers(journal, numbers)
        for i in numbers:
            event = journal.last.get(i)
            if event is not None and event.status != "running":
                results[i] = event.result
        return came_back

    with _shown(journal, progress):
        left = list(overrides)
        while left:
            came_back = run(left)
            begun = [i for i in left if i not in results and i in journal.last]
            for i in begun:
                run([i])
                if i not in results:
                    results[i] = _record_killed(journal, i)
            missing = [i for i in left if i not in results]
            if came_back and missing:
                why = "".join(f": {_in_short(error)}" for error in _raised(returned)[:1])
                raise LabError(f"the launcher left out {len(missing)} of {len(jobs)} jobs{why}")
            left = missing
    journal.path.unlink()
    return [results[i] for i in overrides]


def keep_filled(
    places: Places,
    sweep_dir: Path,
    ask: Callable[[], Sequence[str] | None],
    tell: Callable[[int, Result], None],
    progress: Progress,
) -> list[Result]:
    """Run jobs, each asked for when a place is free for it; the results in the order of asking.

    `ask` gives the overrides of the next job, or None for now; `tell` is told the number of each
    that has ended, before anything more is asked for. A job whose worker was killed is run again by
    itself, once the others have ended; if it is killed again, it is recorded as killed.
    """
    journal = Journal.create(sweep_dir)
    first = len(progress.ended)
    given: list[list[str]] = []
    results: dict[int, Result] = {}
    killed: list[int] = []

    def next_job() -> Job | None:
        words = None if killed else ask()
        if words is None:
            return None
        number = first + len(given)
        given.append([*words, f"sweep.job={journal.key(number)}"])
        return number, given[-1]

    def end(number: int, returned: Any, again: bool) -> None:
        journal.news()
        event = journal.last.get(number)
        if isinstance(returned, SystemExit | KeyboardInterrupt):  # it was asked to stop
            raise returned
        if event is None:  # it never began: the worker itself is at fault
            error = next(iter(_raised([returned])), None)
            raise LabError(f"a worker left out its job: {_in_short(error)}") from error
        if event.status == "running" and again:
            say(f"a worker died ({_in_short(returned)})")
            killed.append(number)
            return
        running = event.status == "running"
        results[number] = _record_killed(journal, number) if running else event.result
        tell(number - first, results[number])

    with _shown(journal, progress):
        while True:
            asked = len(given)
            for number, returned in places.run(next_job):
                end(number, returned, again=True)
            alone = list(killed)
            for number in alone:
                only = [(number, given[number - first])]
                for _, returned in places.run(lambda: only.pop() if only else None):  # noqa: B023
                    end(number, returned, again=False)
            killed.clear()
            if not alone and len(given) == asked:
                break
    journal.path.unlink()
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
        from lmlab.sweeps.report.report import report  # here, for it imports pandas

        try:
            report(sweep_dir)
        except LabError as error:
            problem = error
    if failed:
        no_report = "" if problem is None else f"; there is no report: {problem}"
        raise LabError(f"{len(failed)} of {len(results)} jobs failed{skipped}; {advice}{no_report}")
    if problem is not None:
        raise problem


def _name(launcher: Launcher) -> str:
    """As it is chosen by, of a launcher of Hydra's: JoblibLauncher, joblib."""
    return type(launcher).__name__.removesuffix("Launcher").lower()


def _in_short(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:100]


def _raised(returned: Sequence[Any]) -> list[BaseException]:
    """What jobs raised before they came to the journal; Hydra keeps it in its JobReturns."""
    values = [getattr(one, "_return_value", one) for one in returned]
    return [value for value in values if isinstance(value, BaseException)]


def _wait_for_workers(journal: Journal, numbers: list[int]) -> None:
    """A launcher may come back before its workers do: until none of the jobs is being trained."""
    while True:
        journal.news()
        events = [journal.last[i] for i in numbers if i in journal.last]
        if not any(e.status == "running" and _is_alive(e) for e in events):
            return
        time.sleep(0.5)


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


def _record_killed(journal: Journal, number: int) -> Result:
    from lmlab.display.event_files import show_killed

    path = Path(str(journal.last[number].run))
    RunDirectory(path).update(status="killed", error=KILLED)
    with suppress(OSError, LabError):  # a full disk: only the board lacks it
        show_killed(path)
    event = Event(number, "killed", time.time(), run=str(path), trained=True, error=KILLED)
    journal.add(event)
    return event.result


@dataclass
class Progress:
    """Jobs done, running, failed; the best so far; time left."""

    total: int
    has_best: bool = True  # losses of different tokens cannot be compared
    began: float = field(default_factory=time.time)
    running: dict[int, float] = field(default_factory=dict)  # since when
    ended: dict[int, Event] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)  # of jobs trained to their end, seconds
    most_running: int = 1

    def update(self, event: Event) -> None:
        if event.status == "running":
            self.running[event.job] = event.time
            self.most_running = max(self.most_running, len(self.running))
            return
        began = self.running.pop(event.job, event.time)
        if event.trained and event.status not in FAILED:  # a failure takes as long as it takes
            self.durations.append(event.time - began)
        self.ended[event.job] = event

    @property
    def best(self) -> Event | None:
        """The job with the lowest loss, of those whose settings have no seed that diverged."""
        diverged = {e.setting for e in self.ended.values() if e.diverged}
        found = [e for e in self.ended.values() if e.loss is not None and e.setting not in diverged]
        return min(found, key=lambda e: e.loss, default=None)  # type: ignore[arg-type, return-value]

    def seconds_left(self) -> float | None:
        """By the mean duration so far, with as many at once as there have been."""
        if not self.durations:
            return None
        mean = sum(self.durations) / len(self.durations)
        now = time.time()
        begun = sum(max(0.0, mean - (now - since)) for since in self.running.values())
        waiting = self.total - len(self.ended) - len(self.running)
        return (begun + mean * waiting) / self.most_running

    def line(self) -> str:
        counts = Counter(e.status for e in self.ended.values())
        kept = sum(not e.trained for e in self.ended.values() if e.status in ("done", "pruned"))
        aim = "planned" if counts["planned"] else "done"  # in a dry run nothing is done
        parts = [f"{counts[aim]}/{self.total} {aim}" + (f" ({kept} before)" if kept else "")]
        others = ("pruned", "failed", "killed", "skipped")
        parts += [f"{counts[status]} {status}" for status in others if counts[status]]
        if self.running:
            parts.append(f"{len(self.running)} running")
        if self.best is not None and self.has_best:
            parts.append(f"best {self.best.loss:.4f} ({Path(str(self.best.run)).name})")
        left = self.seconds_left()
        if left is not None and len(self.ended) < self.total:
            parts.append(f"about {_duration(left)} left")
        return " · ".join(parts)


def _have_one_unit(jobs: Sequence[Sequence[str]]) -> bool:
    """Whether all jobs have the same tokens, as far as their overrides say."""
    tokens = [[word for word in job if word.startswith(("tokenizer", "corpus"))] for job in jobs]
    return all(words == tokens[0] for words in tokens)


@contextmanager
def _shown(journal: Journal, progress: Progress) -> Iterator[None]:
    """Read the journal from a thread while jobs run, and say what it says."""
    over = threading.Event()

    def show_news() -> None:
        with showing:
            _show(reader.news(), progress)

    def follow() -> None:
        while True:
            last = over.is_set()
            show_news()
            if last:
                return
            over.wait(0.5)

    reader, showing = Journal(journal.path), threading.Lock()
    followers[journal.path] = show_news
    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say("the sweep is interrupted; the same command goes on with it")
        raise
    finally:
        del followers[journal.path]
        over.set()
        thread.join()
        if progress.ended and (len(progress.ended) >= progress.total or progress.running):
            say(progress.line())


def _show(events: list[Event], progress: Progress) -> None:
    for event in events:
        progress.update(event)
        if event.status == "running" or not event.trained:
            continue
        name = Path(str(event.run)).name
        if event.status == "done":
            loss = "no loss" if event.loss is None else f"val/loss_full {event.loss:.4f}"
            say(f"done    {name}  {loss}")
        elif event.error is not None:
            say(f"{event.status:7} {name}  {event.error}  (log: {event.run}/{LOG})")
        else:
            say(f"{event.status:7} {name}")
        if len(progress.ended) < progress.total:
            say(f"        {progress.line()}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
