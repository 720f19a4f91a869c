"""A Hydra launcher that gives each job of a multirun a GPU of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from lmlab.sweeps.launch.pool import Workers


class GpusLauncher(Launcher):
    """By conf/hydra/launcher/gpus.yaml."""

    def __init__(self, devices: Sequence[int | str] | None = None, jobs_per_gpu: int = 1):
        """`devices` as CUDA_VISIBLE_DEVICES names them; None: all that there are."""
        self.devices, self.jobs_per_gpu = devices, jobs_per_gpu
        self.config: Any = None
        self.hydra_context: Any = None
        self.task_function: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function = hydra_context, task_function
        self.config = config

    def pool(self, n_jobs: int) -> Workers:
        """A worker for each job at a time, of `n_jobs` in all; the lab's sweepers ask for it."""
        from lmlab.console import say
        from lmlab.sweeps.launch.pool import workers_on_gpus

        pool = workers_on_gpus(self, self.devices, self.jobs_per_gpu, n_jobs)
        names = list(dict.fromkeys(e["CUDA_VISIBLE_DEVICES"] for e in pool.environments))
        jobs = "1 job" if self.jobs_per_gpu == 1 else f"{self.jobs_per_gpu} jobs"
        say(f"GPUs {', '.join(names)}: {jobs} on each at a time")
        return pool

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """For sweepers of others."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = iter(enumerate(job_overrides, initial_job_idx))
        ended: dict[int, JobReturn] = {}
        with self.pool(len(job_overrides)) as pool:
            for one in pool.run(lambda: next(jobs, None)):
                if one.died is not None:
                    raise one.died
                ended |= zip(one.numbers, one.returned, strict=True)
        return [ended[number] for number in sorted(ended)]
