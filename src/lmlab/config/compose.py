"""What was asked for, as a checked config: Hydra composes; a run or a parent fills in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lmlab.config.stored import conf_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed(name: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The config of a command, without running it; `with_hydra` keeps Hydra's own node."""
    from hydra import compose, initialize_config_dir

    with ours_alone(), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(name, overrides, return_hydra_config=with_hydra)


@contextmanager
def ours_alone() -> Iterator[None]:
    """Hydra is one for a process: an application of another's, which calls us, has it back."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import JobRuntime
    from hydra.version import VersionBase

    global_hydra = GlobalHydra.instance()
    hydra, config = global_hydra.hydra, HydraConfig.instance().cfg
    job, base = copy.deepcopy(JobRuntime.instance().conf), VersionBase.instance().version_base
    global_hydra.clear()
    try:
        yield
    finally:  # Hydra may have made another of each
        GlobalHydra.set_instance(global_hydra)
        global_hydra.hydra, HydraConfig.instance().cfg = hydra, config
        JobRuntime.instance().conf = job
        VersionBase.instance().version_base = base


def chosen() -> dict[str, str]:
    """The options that the config was composed of, by group."""
    from hydra.core.hydra_config import HydraConfig

    found = HydraConfig.get().runtime.choices
    return {
        group: option
        for group, option in found.items()
        if option is not None and not group.startswith(("hydra", "experiment", "sweep"))
    }
