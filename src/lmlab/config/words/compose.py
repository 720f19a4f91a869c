"""What was asked for, as a checked config: Hydra composes; a run or a parent fills in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmlab.config.stored import conf_dir
from lmlab.config.words.hydra_inside import ours_alone, version_base

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed(name: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The config of a command, without running it; `with_hydra` keeps Hydra's own node."""
    from hydra import compose, initialize_config_dir

    with ours_alone(), initialize_config_dir(str(conf_dir()), **version_base()):
        return compose(name, overrides, return_hydra_config=with_hydra)


def chosen() -> dict[str, str]:
    """The options that the config was composed of, by group."""
    from hydra.core.hydra_config import HydraConfig

    found = HydraConfig.get().runtime.choices
    return {
        group: option
        for group, option in found.items()
        if option is not None and not group.startswith(("hydra", "experiment", "sweep"))
    }
