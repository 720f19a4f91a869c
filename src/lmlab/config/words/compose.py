"""The config of a command without running it: composed, and its options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.config.stored import conf_dir
from lmlab.config.words.hydra_inside import ours_alone, version_base

if TYPE_CHECKING:
    from omegaconf import DictConfig


MOST_OPTIONS = 20  # of a group, listed by name; of more, its folders


def composed(name: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The config of a command, without running it; `with_hydra` keeps Hydra's own node."""
    from hydra import compose, initialize_config_dir

    with ours_alone(), initialize_config_dir(str(conf_dir()), **version_base()):
        return compose(name, overrides, return_hydra_config=with_hydra)


def chosen() -> dict[str, str]:
    """The options that the config was composed of, by group."""
    from hydra.core.hydra_config import HydraConfig

    return {
        group: option
        for group, option in HydraConfig.get().runtime.choices.items()
        if option is not None and not group.startswith(("hydra", "experiment", "sweep"))
    }


def options(folders: Sequence[Path], group: str) -> list[str]:
    """The options of a group in folders of configs, those of the group's folders too."""
    names = {
        path.relative_to(folder / group).with_suffix("")
        for folder in folders
        for path in (folder / group).rglob("*.yaml")
    }
    return [name.as_posix() for name in sorted(names) if not name.name.startswith("_")]


def shown_few(names: list[str]) -> str:
    """The names of options, those in folders by their folder where there are many."""
    if len(names) <= MOST_OPTIONS:
        return ", ".join(names)
    folders: dict[str, int] = {}
    for name in names:
        folder = name.partition("/")[0] if "/" in name else ""
        folders[folder] = folders.get(folder, 0) + 1
    alone = [name for name in names if "/" not in name]
    return ", ".join([*alone, *(f"{folder}/… ({n})" for folder, n in folders.items() if folder)])
