"""Places for jobs: worker processes, each with an environment of its own, that train one job at a
time and are given the next as soon as they are free."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmlab.errors import LabError

Job = tuple[int, Sequence[str]]  # its number, and its overrides
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Places:
    """Use as a context: the workers end with it."""

    def __init__(self, launcher: Any, environments: Sequence[dict[str, str]]):
        """`launcher` is one of Hydra's that has been set up; each environment is a place."""
        self.launcher, self.environments = launcher, list(environments)
        self._workers: dict[int, Any] = {}

    def __enter__(self) -> Places:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # asked to stop, or at fault: each job ends with its step
            for worker in self._workers.values():
                _ask_to_stop(worker)
        for worker in self._workers.values():
            worker.shutdown(wait=True)

    def run(self, next_job: Callable[[], Job | None]) -> Iterator[tuple[int, Any]]:
        """The number of each job as it ends, and what it returned, or what ended its worker.

        `next_job` is asked whenever a place is free, until it has none and none is running.
        """
        free = list(range(len(self.environments)))
        running: dict[Future[Any], tuple[int, int]] = {}
        while True:
            while free and (job := next_job()) is not None:
                place = free.pop(0)
                running[self._submit(place, *job)] = (place, job[0])
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place, number = running.pop(future)
                error = future.exception()
                if error is not None:
                    self._workers.pop(place).shutdown(wait=False)
                free.append(place)
                yield number, error if error is not None else future.result()

    def _submit(self, place: int, number: int, overrides: Sequence[str]) -> Future[Any]:
        from hydra.core.singleton import Singleton
        from joblib.externals.loky import ProcessPoolExecutor

        if place not in self._workers:
            # A worker whose memory grew, as by importing torch, is replaced, and loky says so.
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
            self._workers[place] = ProcessPoolExecutor(1, env=self.environments[place])
        launcher = self.launcher
        future: Future[Any] = self._workers[place].submit(
            _run,
            number,
            list(overrides),
            launcher.hydra_context,
            launcher.config,
            launcher.task_function,
            Singleton.get_state(),
            Path.cwd(),
        )
        return future


def _ask_to_stop(worker: Any) -> None:
    """Let the run that a worker trains finish its step and write a checkpoint.

    By SIGTERM, for SIGINT it may have had from the terminal already, and two of them mean at once.
    """
    for process in list(worker._processes.values()):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)


def places_of(launcher: Any, n_jobs: int) -> Places | None:
    """Up to `n_jobs` places of a launcher that has any: `gpus`, and `joblib` for more than one.

    Raises:
        LabError: if its settings are of no use.
    """
    if n_jobs < 1:
        return None
    places = getattr(launcher, "places", None)
    if places is not None:
        found: Places = places(n_jobs)
        return found
    if type(launcher).__name__ != "JoblibLauncher":
        return None
    import joblib

    # As many threads as joblib gives its workers.
    wanted = int(launcher.joblib.get("n_jobs"))
    if wanted == 0:
        raise LabError(
            "hydra.launcher.n_jobs=0: how many jobs to train at once, or -1, one for each processor"
        )
    n = wanted if wanted > 0 else max(1, joblib.cpu_count() + 1 + wanted)
    if n == 1:
        return None
    return Places(launcher, [threads_for(n)] * min(n, n_jobs))


def check_settings(launcher: Any) -> None:
    """Refuse what submitit takes, and cannot do.

    Raises:
        LabError: naming the key.
    """
    settings = getattr(launcher, "params", {})
    for name in ("timeout_min", "cpus_per_task", "nodes", "tasks_per_node", "array_parallelism"):
        if isinstance(value := settings.get(name), int) and value < 1:
            raise LabError(f"hydra.launcher.{name}={value}: give a whole number of at least 1")


def threads_for(n: int) -> dict[str, str]:
    """The environment of one of `n` workers: a share of the processors, or what is set already."""
    import joblib

    share = str(max(1, joblib.cpu_count() // n))
    return {name: os.environ.get(name, share) for name in THREADS}


def gpus() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def places_on_gpus(
    launcher: Any, devices: Sequence[int | str] | None, per_gpu: int, n_jobs: int
) -> Places:
    """Each GPU is `per_gpu` places, as far as there are `n_jobs`.

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
            "hydra/launcher=gpus: this machine has no GPU that PyTorch sees; hydra/launcher=joblib "
            "trains a job on each core"
        )
    threads = threads_for(len(names) * per_gpu)
    # The jobs of one GPU are neighbours last: the first jobs go to different ones.
    every = (names[i % len(names)] for i in range(min(n_jobs, len(names) * per_gpu)))
    return Places(launcher, [{**threads, "CUDA_VISIBLE_DEVICES": name} for name in every])


def _run(
    number: int,
    overrides: list[str],
    context: Any,
    config: Any,
    task: Any,
    state: Any,
    folder: Path,
) -> Any:
    """One job, in a worker: where the first process is, with what Hydra has registered there."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton
    from hydra.core.utils import run_job, setup_globals
    from omegaconf import open_dict

    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    job = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = number
    HydraConfig.instance().set_config(job)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
