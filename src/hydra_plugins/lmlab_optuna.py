"""Hydra's way to the Optuna sweeper. Hydra imports this at every start, so optuna comes later."""

from __future__ import annotations

from typing import Any

from lmlab.sweeps.launch.sweeper import LabSweeper


class OptunaSweeper(LabSweeper):
    """Trials that Optuna proposes, by conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, **settings: Any):
        """`settings` are read from the composed config once it is whole: see `Settings`."""

    def sweep(self, arguments: list[str]) -> Any:
        from lmlab.sweeps.search.search import search

        return search(self.config, self.loader, self.launcher, arguments)
