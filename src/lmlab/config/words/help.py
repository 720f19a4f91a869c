"""What `--help` shows: the choices of a command, and every key with the value it has.

Hydra's own help copies its whole repository of configs for each group it lists, twice over, and
takes twice as long as the training command takes to refuse a config.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

FLAGS = {
    "--cfg job": "show the config, with nothing but YAML, and do nothing",
    "-m, --multirun": "take key=a,b,c as so many jobs",
    "--hydra-help": "Hydra's own flags and groups, tab completion among them",
}


def help_text(cfg: DictConfig, usage: str, about: str, conf_dir: Path) -> str:
    """Of one command: its config, Hydra's part with it, how it is called, and what it does."""
    groups = [group for group in cfg.hydra.runtime.choices if not group.startswith("hydra/")]
    groups = sorted(group for group in groups if group != "hydra")
    choices = "[group=option …] " if groups else ""
    lines = [about, "", f"usage: {usage} {choices}[key=value …] [flag …]", ""]
    lines += [f"  {flag:<16}{what}" for flag, what in FLAGS.items()]
    if groups:
        lines += ["", "Groups (group=option):", ""]
        lines += [f"  {group}: {', '.join(options(conf_dir, group))}" for group in groups]
    lines += ["", "Every key, with the value it has now (key=value):", ""]
    return "\n".join([*lines, _keys(cfg)])


def options(conf_dir: Path, group: str) -> list[str]:
    """The options of a group in conf/, those of its folders too."""
    folder = conf_dir / group
    found = sorted(path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
    return [option.as_posix() for option in found if not option.name.startswith("_")]


def _keys(cfg: DictConfig) -> str:
    with open_dict(cfg):
        del cfg["hydra"]
    return "".join(f"  {line}\n" for line in OmegaConf.to_yaml(cfg).splitlines())
