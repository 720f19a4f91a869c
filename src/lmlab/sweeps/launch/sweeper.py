"""What the lab's sweepers share: their jobs are composed in a fraction of Hydra's time."""

from __future__ import annotations

import dataclasses

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LabSweeper(Sweeper):
    """A sweeper that is set up; what is left to say is which jobs there are, in `sweep`."""

    config: DictConfig  # as it is composed for the sweep, before any job's words
    launcher: Launcher
    loader: ConfigLoader

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
