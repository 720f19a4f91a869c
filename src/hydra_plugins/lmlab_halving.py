"""Hydra's way to the halving sweeper, which is imported at every start: the rest comes later."""

from __future__ import annotations

from typing import Any

from lmlab.sweeps.launch.sweeper import LabSweeper


class HalvingSweeper(LabSweeper):
    """Settings of which the best are trained on, by conf/hydra/sweeper/halving.yaml."""

    def __init__(self, **settings: Any):
        """`settings` are read from the composed config once it is whole: see `Settings`."""

    def sweep(self, arguments: list[str]) -> Any:
        from lmlab.sweeps.search.halving import halve

        return halve(self.config, self.loader, self.launcher, arguments)
