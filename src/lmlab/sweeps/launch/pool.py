"""The pool that trains a sweep's jobs: workers of the lab's own, each given the next job as soon as
it is free, or a launcher of Hydra's, which comes back when all it was given has ended."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar

from lmlab.console import say
from lmlab.errors import LabError, one_line
from lmlab.sweeps.launch import worker
from lmlab.sweeps.launch.slurm.cluster import queued, submit_all

Job = tuple[int, Sequence[str]]  # its number, and its overrides
NextJob = Callable[[], Job | None]  # None: there is none now
# Of submitit's settings.
AT_LEAST_1 = frozenset(
    ("timeout_min", "cpus_per_task", "nodes", "tasks_per_node", "mem_gb", "array_parallelism")
)
LOOK_EVERY = 60.0  # seconds between two questions to a cluster's queue
PATIENCE = 10.0  # seconds between two looks at the files of its jobs, at most
ATTEMPTS = 4  # of a job that the cluster takes away
T = TypeVar("T")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Ended:
    """Jobs that were given together, and what Hydra says of each or what took them all along."""

    numbers: list[int]
    returned: Callable[[], list[Any]] = list
    died: BaseException | None = None  # what ended the worker, or the launcher


class Pool(AbstractContextManager["Pool"]):
    """Trains jobs, some at once. Use as a context: what works for it ends with it."""

    pace: ClassVar[str]  # when it asks for more
    launcher: Any  # of Hydra, set up
    at_once: int

    @abstractmethod
    def run(self, next_job: NextJob) -> Iterator[Ended]:
        """What has ended, as it ends. `next_job` is asked whenever there is room, until it has none
        and none is running."""

    @property
    def has_torch(self) -> bool:
        """Whether torch is imported where `ask` asks, or soon will be."""
        return "torch" in sys.modules

    def begin(self) -> None:
        """Have what jobs need imported, if other processes do that."""

    def ask(self, function: Callable[..., T], *args: Any) -> T:
        """What a function returns where jobs are trained, if that is before any of them."""
        return function(*args)


class Launches(Pool):
    """Any launcher of Hydra's, launched again and again."""

    pace = "in a batch: this launcher comes back when all have ended"

    def __init__(self, launcher: Any, at_once: int):
        self.launcher, self.at_once = launcher, at_once

    def __exit__(self, *_: object) -> None: ...

    def run(self, next_job: NextJob) -> Iterator[Ended]:
        while jobs := dict(itertools.islice(iter(next_job, None), self.at_once)):
            try:
                returned = self.launcher.launch([*jobs.values()], initial_job_idx=min(jobs))
            except Exception as error:  # each launcher has its own for a worker that died
                yield Ended([*jobs], died=error)
            else:
                yield Ended([*jobs], partial(list, returned or []))


class Workers(Pool):
    """Worker processes, each with an environment of its own."""

    pace = "at a time, each place filled as it becomes free"

    def __init__(self, launcher: Any, environments: Sequence[dict[str, str]]):
        self.launcher, self.environments = launcher, list(environments)
        self.at_once = len(self.environments)
        self._executors: dict[int, ProcessPoolExecutor] = {}

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # asked to stop, or at fault: each job ends with its step
            for executor in self._executors.values():
                _ask_to_stop(executor)
        for executor in self._executors.values():
            executor.shutdown(wait=True)

    @property
    def has_torch(self) -> bool:
        return bool(self._executors)

    def begin(self) -> None:
        for place in range(self.at_once):
            self._executor(place)

    def ask(self, function: Callable[..., T], *args: Any) -> T:
        """
        Raises:
            LabError: if the process dies of it.
        """
        try:
            return self._executor(0).submit(function, *args).result()
        except BrokenExecutor as error:
            raise LabError(f"a worker died before its first job: {one_line(str(error))}") from error

    def run(self, next_job: NextJob) -> Iterator[Ended]:
        free = list(range(self.at_once))
        running: dict[Future[bytes], tuple[int, int]] = {}
        while True:
            while free and (job := next_job()) is not None:
                place = free.pop(0)
                running[self._submit(place, *job)] = (place, job[0])
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place, number = running.pop(future)
                died = future.exception()
                if died is not None:
                    self._executors.pop(place).shutdown(wait=False)
                free.append(place)
                if died is None:
                    yield Ended([number], partial(worker.returned, future.result()))
                else:
                    yield Ended([number], died=died)

    def _submit(self, place: int, number: int, overrides: Sequence[str]) -> Future[bytes]:
        return self._executor(place).submit(worker.run, number, list(overrides), self._sweep)

    @cached_property
    def _sweep(self) -> bytes:
        """What all jobs have in common; see `worker.sweep_of`."""
        return worker.sweep_of(self.launcher)

    def _executor(self, place: int) -> ProcessPoolExecutor:
        """The one process of a place, begun when it is first wanted."""
        if place not in self._executors:
            self._executors[place] = worker.begun(self.environments[place])
        return self._executors[place]


@dataclass
class Submitted:
    """A job of a pool, in the queue or at work."""

    words: Sequence[str]
    handle: Any  # of submitit
    attempts: int = 1

    @property
    def has_ended(self) -> bool:
        """Whether it has said how."""
        return bool(self.handle.paths.result_pickle.is_file())


class Queue(Pool):
    """The jobs of a sweep that waits for a cluster of SLURM's. They end with it.

    What was taken away is submitted again. The queue is asked for all jobs at once, once a minute;
    whether any has ended is seen by its file.
    """

    pace = "at a time, as the cluster has room"

    def __init__(self, launcher: Any, at_once: int):
        self.launcher, self.at_once = launcher, at_once
        self._jobs: dict[int, Submitted] = {}
        self._asked = 0.0  # when the queue was asked

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._jobs:  # each writes its checkpoint
            names = [job.handle.job_id for job in self._jobs.values()]
            subprocess.run(["scancel", *names], check=False, capture_output=True)

    def run(self, next_job: NextJob) -> Iterator[Ended]:
        pause = 0.1
        while True:
            room = self.at_once - len(self._jobs)
            self._submit(dict(itertools.islice(iter(next_job, None), room)))
            if not self._jobs:
                return
            ended = [*self._with_results(), *self._taken_away()]
            yield from ended
            pause = 0.1 if ended else min(PATIENCE, pause * 1.5)
            if not ended:
                time.sleep(pause)

    def _submit(self, jobs: dict[int, Sequence[str]], attempts: int = 1) -> None:
        if not jobs:
            return
        handles = submit_all(self.launcher, list(jobs.values()), min(jobs))
        for (number, words), handle in zip(jobs.items(), handles, strict=True):
            self._jobs[number] = Submitted(words, handle, attempts)
        self._asked = time.monotonic()

    def _with_results(self) -> Iterator[Ended]:
        for number, job in list(self._jobs.items()):
            if not job.has_ended:
                continue
            del self._jobs[number]
            try:
                yield Ended([number], partial(list, [job.handle.results()[0]]))
            except Exception as error:  # whatever the job raised, as submitit says it
                yield Ended([number], died=error)

    def _taken_away(self) -> Iterator[Ended]:
        """Submit anew what the queue has no longer; what was often enough is given back."""
        if time.monotonic() - self._asked < LOOK_EVERY:
            return
        self._asked = time.monotonic()
        try:
            states = queued()
        except LabError as error:  # it may be back in a minute
            say(str(error))
            return
        again: dict[int, dict[int, Sequence[str]]] = {}  # by the attempts until now
        for number, job in list(self._jobs.items()):
            if job.handle.job_id in states or job.has_ended:
                continue
            del self._jobs[number]
            if job.attempts < ATTEMPTS:
                again.setdefault(job.attempts, {})[number] = job.words
            else:
                yield Ended([number], died=LabError(f"the cluster took it away {ATTEMPTS} times"))
        for attempts, jobs in again.items():
            say(f"the cluster took away {len(jobs)} jobs; they are submitted again, and go on")
            self._submit(jobs, attempts + 1)


def _ask_to_stop(executor: ProcessPoolExecutor) -> None:
    """Let the run that a worker trains finish its step and write a checkpoint.

    An executor has no way to ask for that, so its processes are looked up in its inside.
    """
    for process in list(executor._processes.values()):
        process.terminate()  # by SIGTERM


def pool_of(launcher: Any, n_jobs: int, batch: int | None = None) -> Pool:
    """What trains up to `n_jobs` jobs at once: workers if the launcher has a method `pool` that
    makes them, or is joblib with more than one; any other is given `batch` at a time, or all.

    Raises:
        LabError: if the launcher's settings are of no use.
    """
    check_settings(launcher)
    make = getattr(launcher, "pool", None)
    if make is not None:
        pool: Pool = make(n_jobs)
        return pool
    if type(launcher).__name__ == "JoblibLauncher":
        import joblib

        wanted = int(launcher.joblib["n_jobs"])
        n = wanted if wanted > 0 else max(1, joblib.cpu_count() + 1 + wanted)
        if n > 1:
            return workers_on_cores(launcher, n, n_jobs)
    if type(launcher).__name__ == "SlurmLauncher":
        return Queue(launcher, batch or n_jobs)
    return Launches(launcher, batch or n_jobs)


def check_settings(launcher: Any) -> None:
    """Refuse what joblib or submitit take, and nothing would come of.

    Raises:
        LabError: naming the key.
    """
    settings = getattr(launcher, "params", {})  # of submitit
    for name, value in settings.items():
        if name in AT_LEAST_1 and isinstance(value, int) and value < 1:
            raise LabError(f"hydra.launcher.{name}={value}: give a whole number of at least 1")
    if type(launcher).__name__ != "JoblibLauncher":
        return
    from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf
    from omegaconf import OmegaConf

    usual = OmegaConf.structured(JobLibLauncherConf)
    for name, value in launcher.joblib.items():
        if name == "n_jobs" and value == 0:
            raise LabError(
                "hydra.launcher.n_jobs=0: how many jobs to train at once, or -1, one for each "
                "processor"
            )
        if name != "n_jobs" and value != usual.get(name):
            raise LabError(
                f"hydra.launcher.{name}={value} is not used: of joblib's settings the lab takes "
                "hydra.launcher.n_jobs"
            )


def threads_for(n: int) -> dict[str, str]:
    """The environment of one of `n` workers: a share of the processors, or what is set already."""
    import joblib

    share = str(max(1, joblib.cpu_count() // n))
    return {name: os.environ.get(name, share) for name in THREADS}


def workers_on_cores(launcher: Any, wanted: int | None, n_jobs: int) -> Workers:
    """`wanted` workers, or one for each core, as far as there are `n_jobs`.

    Raises:
        LabError: if `wanted` is no number of workers.
    """
    if wanted is None:
        import joblib

        wanted = int(joblib.cpu_count())
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise LabError(
            f"hydra.launcher.n_jobs={wanted}: how many jobs to train at once, a whole number of at "
            "least 1, or null, one for each core"
        )
    return Workers(launcher, [threads_for(wanted)] * min(wanted, n_jobs))


def gpus() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def workers_on_gpus(
    launcher: Any, devices: Sequence[int | str] | None, per_gpu: int, n_jobs: int
) -> Workers:
    """`per_gpu` workers for each GPU, as far as there are `n_jobs`.

    Raises:
        LabError: if there is no GPU.
    """
    if not isinstance(per_gpu, int) or isinstance(per_gpu, bool) or per_gpu < 1:
        raise LabError(f"hydra.launcher.jobs_per_gpu={per_gpu}: give a whole number of at least 1")
    if devices is not None and (isinstance(devices, str) or not isinstance(devices, Sequence)):
        raise LabError(f"hydra.launcher.devices={devices}: give a list, such as [0,1]")
    names = gpus() if devices is None else [str(device) for device in devices]
    if not names:
        raise LabError(
            "hydra/launcher=gpus: this machine has no GPU that PyTorch sees; hydra/launcher=local "
            "trains a job on each core"
        )
    threads = threads_for(len(names) * per_gpu)
    # The jobs of one GPU are neighbours last: the first jobs go to different ones.
    every = (names[i % len(names)] for i in range(min(n_jobs, len(names) * per_gpu)))
    return Workers(launcher, [{**threads, "CUDA_VISIBLE_DEVICES": name} for name in every])
