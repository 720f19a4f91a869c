"""Running the jobs of a sweep that are trained together: each in a thread, some in each process."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from omegaconf import DictConfig, OmegaConf

from lmlab.console import say
from lmlab.errors import LabError
from lmlab.sweeps.grouping import Grouped

if TYPE_CHECKING:
    from lmlab.training.group import Group

SECONDS = 10.0  # from one line about a group's progress to the next

current_group: ContextVar[Group | None] = ContextVar("current_group", default=None)

Return = TypeVar("Return")
Jobs = dict[int, DictConfig]  # by number


def run_together(
    jobs: Sequence[DictConfig],
    run: Callable[[DictConfig], Return],
    size: int,
    n_jobs: int,
) -> list[Return]:
    """What `run` returns for each job, a config as Hydra composes it.

    `size` go together at most, in `n_jobs` processes (-1: as many as there are processors, but one
    on a GPU).

    Raises:
        LabError: if `size` or `n_jobs` is no number of jobs or processes.
        BaseException: the first that a job raised, once all of its group have ended.
    """
    if not isinstance(size, int) or size < 1:
        raise LabError(f"hydra.launcher.size={size}: give a whole number of at least 1")
    n_processes = _n_processes(jobs, n_jobs)
    grouped = Grouped.of(jobs, size, n_processes)
    for line in grouped.lines(jobs):
        say(line)
    alone = sorted(i for members in grouped.alone.values() for i in members)
    pieces = [{i: jobs[i] for i in piece} for piece in [*grouped.pieces, *([i] for i in alone)]]
    returns: dict[int, Return] = {}
    for of_piece in _run_all(pieces, run, n_processes):
        returns |= of_piece
    return [returns[i] for i in range(len(jobs))]


def _n_processes(jobs: Sequence[DictConfig], n_jobs: int) -> int:
    if not isinstance(n_jobs, int) or n_jobs < -1 or n_jobs == 0:
        raise LabError(
            f"hydra.launcher.n_jobs={n_jobs}: give a number of processes, or -1 for one for each "
            "processor"
        )
    if any(job.get("dry_run") for job in jobs):  # what would happen is said here, in order
        return 1
    has_joblib = importlib.util.find_spec("joblib") is not None
    if n_jobs > 1 and not has_joblib:
        raise LabError(f'hydra.launcher.n_jobs={n_jobs} needs an extra: pip install "lmlab[sweep]"')
    if n_jobs > 0 or not has_joblib:
        return max(n_jobs, 1)
    import joblib

    n: int = joblib.cpu_count()
    if n > 1 and any(OmegaConf.select(job, "trainer.accelerator") != "cpu" for job in jobs):
        import torch

        return 1 if torch.accelerator.is_available() else n
    return n


def _run_all(
    pieces: list[Jobs], run: Callable[[DictConfig], Return], n_processes: int
) -> list[dict[int, Return]]:
    # A single job, too, has a worker: its threads, and so its last digits, do not depend on others.
    if n_processes == 1:
        return [_run_piece(piece, run, 1) for piece in pieces]
    from hydra.core.singleton import Singleton
    from joblib import Parallel, delayed

    state, folder = Singleton.get_state(), Path.cwd()
    found: list[dict[int, Return]] = Parallel(n_processes, batch_size=1, pre_dispatch="all")(
        delayed(_in_a_worker)(piece, run, n_processes, state, folder) for piece in pieces
    )
    return found


def _in_a_worker(
    jobs: Jobs,
    run: Callable[[DictConfig], Return],
    n_processes: int,
    state: object,
    folder: Path,
) -> dict[int, Return]:
    """Where the first process is, with what Hydra has registered there."""
    from hydra.core.singleton import Singleton
    from hydra.core.utils import setup_globals

    os.chdir(folder)  # a worker of an earlier sweep may be used again
    setup_globals()
    Singleton.set_state(state)
    return _run_piece(jobs, run, n_processes)


def _run_piece(
    jobs: Jobs, run: Callable[[DictConfig], Return], n_processes: int
) -> dict[int, Return]:
    """One job alone, or several together."""
    if len(jobs) == 1:
        return {i: run(job) for i, job in jobs.items()}
    from lmlab.streams import own_default_generators
    from lmlab.training.group import Group
    from lmlab.training.stopping import Stop

    returns: dict[int, Return] = {}
    errors: list[BaseException] = []
    stop = Stop()
    group = Group(len(jobs), stop, _Progress(jobs).update, share=0.5 / n_processes)

    def member(i: int, job: DictConfig) -> None:
        with own_default_generators(), group.joined():
            current_group.set(group)
            try:
                returns[i] = run(job)
            except BaseException as error:
                errors.append(error)

    with stop.listening():
        threads = [
            threading.Thread(target=member, args=item, name=f"job {item[0]}")
            for item in jobs.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return returns


class _Progress:
    """A line about a group from time to time."""

    def __init__(self, jobs: Jobs):
        self.max_steps = next(iter(jobs.values())).trainer.max_steps
        self._last = time.monotonic()

    def update(self, step: int, n: int) -> None:
        now = time.monotonic()
        if now - self._last > SECONDS:
            self._last = now
            say(f"         step {step:,}/{self.max_steps:,} of {n} jobs")
