"""Hydra's way to the Optuna sweeper. Hydra imports this at every start, so optuna comes later."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Trials that Optuna proposes, by conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, **settings: Any):
        """`settings` are read from the composed config once it is whole: see `Settings`."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from lmlab.sweeps.launch.composing import RememberingLoader

        hydra_context.config_loader = RememberingLoader(hydra_context.config_loader)
        self.hydra_context, self.config = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from lmlab.sweeps.search.search import search

        assert self.config is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        return search(self.config, loader, self.launcher, arguments)
