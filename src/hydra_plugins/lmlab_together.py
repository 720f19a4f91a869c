"""A Hydra launcher that trains the jobs of a multirun together where one computation serves all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class TogetherLauncher(Launcher):
    """Which jobs go together, and why the others do not: `lmlab.sweeps.grouping`."""

    def __init__(self, size: int, n_jobs: int = 1):
        """`size` is how many jobs go together at most, `n_jobs` how many processes train them."""
        self.size, self.n_jobs = size, n_jobs
        self.config: Any = None
        self.context: Any = None
        self.task: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from lmlab.sweeps.workers import run_together

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            job = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(job):
                job.hydra.job.id = job.hydra.job.num = number
            jobs.append(job)
        of_the_sweep = HydraConfig.instance().cfg
        try:
            return run_together(jobs, self._run, self.size, self.n_jobs)
        finally:
            HydraConfig.instance().cfg = of_the_sweep  # threads end in any order
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)

    def _run(self, job: DictConfig) -> JobReturn:
        return run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=job,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
