"""What the lab's sweepers share: their jobs are composed in a fraction of Hydra's time. And what
its launchers share: a pool of worker processes."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from lmlab.sweeps.launch.composing import RememberingLoader
    from lmlab.sweeps.launch.pool import Workers


class LabSweeper(Sweeper):
    """A sweeper that is set up; what is left to say is which jobs there are, in `sweep`."""

    config: DictConfig  # as it is composed for the sweep, before any job's words
    launcher: Launcher
    loader: RememberingLoader

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from lmlab.sweeps.launch.composing import RememberingLoader

        self.config, self.loader = config, RememberingLoader(hydra_context.config_loader)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=dataclasses.replace(hydra_context, config_loader=self.loader),
            task_function=task_function,
            config=config,
        )


class PoolLauncher(Launcher):
    """A launcher that is set up; what is left to say is which workers there are, in `pool`."""

    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function = hydra_context, task_function
        self.config = config

    @abstractmethod
    def pool(self, n_jobs: int) -> Workers:
        """A worker for each job at a time, of `n_jobs` in all; the lab's sweepers ask for it."""

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
                ended |= zip(one.numbers, one.returned(), strict=True)
        return [ended[number] for number in sorted(ended)]
