"""The config of a command without running it: composed, its options, and `--help`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.config.stored import conf_dir
from lmlab.config.words.hydra_inside import ours_alone, version_base

if TYPE_CHECKING:
    from omegaconf import DictConfig

FLAGS = {
    "--cfg job": "show the config, with nothing but YAML, and do nothing",
    "-m, --multirun": "take key=a,b,c as so many jobs",
    "--hydra-help": "Hydra's own flags and groups, tab completion among them",
}


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


def options(folder: Path, group: str) -> list[str]:
    """The options of a group in a folder of configs, those of the group's folders too."""
    inside = folder / group
    names = sorted(path.relative_to(inside).with_suffix("") for path in inside.rglob("*.yaml"))
    return [name.as_posix() for name in names if not name.name.startswith("_")]


def help_text(name: str, overrides: list[str], usage: str, about: str) -> str:
    """What `--help` shows of a command: what it does, how it is called, its choices, and every key
    with the value it has.

    Hydra's own help copies its whole repository of configs for each group it lists, twice over, and
    takes twice as long as the training command takes to refuse a config.
    """
    from omegaconf import OmegaConf

    cfg = composed(name, overrides, with_hydra=True)
    groups = [group for group in cfg.hydra.runtime.choices if not group.startswith("hydra/")]
    groups = sorted(group for group in groups if group != "hydra")
    choices = "[group=option …] " if groups else ""
    lines = [about, "", f"usage: {usage} {choices}[key=value …] [flag …]", ""]
    lines += [f"  {flag:<16}{what}" for flag, what in FLAGS.items()]
    if groups:
        lines += ["", "Groups (group=option):", ""]
        lines += [f"  {group}: {', '.join(options(conf_dir(), group))}" for group in groups]
    lines += ["", "Every key, with the value it has now (key=value):", ""]
    keys = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return "\n".join([*lines, *(f"  {line}" for line in OmegaConf.to_yaml(keys).splitlines()), ""])
