"""Places for jobs: worker processes, each with an environment of its own, that train one job at a
time and are given the next as soon as they are free."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
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

    def __exit__(self, *_: object) -> None:
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


def places_of(launcher: Any, n_jobs: int) -> Places | None:
    """Up to `n_jobs` places of a launcher that has any: `gpus`, and `joblib` for more than one."""
    places = getattr(launcher, "places", None)
    if places is not None:
        found: Places = places()
        found.environments = found.environments[:n_jobs]
        return found
    if type(launcher).__name__ != "JoblibLauncher" or n_jobs < 2:
        return None
    import joblib

    # As many threads as joblib gives its workers.
    wanted = int(launcher.joblib.get("n_jobs") or 1)
    n = wanted if wanted > 0 else max(1, joblib.cpu_count() + 1 + wanted)
    if n == 1:
        return None
    return Places(launcher, [threads_for(n)] * min(n, n_jobs))


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


def places_on_gpus(launcher: Any, devices: Sequence[int | str] | None, per_gpu: int) -> Places:
    """Each GPU is `per_gpu` places.

    Raises:
        LabError: if there is no GPU.
    """
    if not isinstance(per_gpu, int) or per_gpu < 1:
        raise LabError(f"hydra.launcher.jobs_per_gpu={per_gpu}: give a whole number of at least 1")
    names = gpus() if devices is None else [str(device) for device in devices]
    if not names:
        raise LabError(
            "hydra/launcher=gpus: this machine has no GPU that PyTorch sees; hydra/launcher=joblib "
            "trains a job on each core"
        )
    threads = threads_for(len(names) * per_gpu)
    # The jobs of one GPU are neighbours last: the first jobs go to different ones.
    environments = [{**threads, "CUDA_VISIBLE_DEVICES": n} for _ in range(per_gpu) for n in names]
    return Places(launcher, environments)


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
