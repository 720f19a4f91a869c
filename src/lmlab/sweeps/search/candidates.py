"""What sweeps share that choose among runs: their settings, and where each run is kept before any
is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, create_model

from lmlab.config.check import check_plain
from lmlab.config.schema import Node, Train
from lmlab.config.words.command_line import CommandLine
from lmlab.config.words.hydra_inside import hydra_config_lent
from lmlab.console import say
from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.journal.journal import FAILED, Result
from lmlab.sweeps.launch.job import planned, varied_values
from lmlab.sweeps.launch.launching import finish
from lmlab.sweeps.table.reading import SEED
from lmlab.sweeps.table.values import canonical

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader


class SweeperSettings(Node):
    """What those that choose among runs have in common."""

    target: str = Field(alias="_target_")
    params: dict[str, Any]
    when: dict[str, dict[str, Any]]


T = TypeVar("T", bound=SweeperSettings)


def sweeper_settings(config: DictConfig, kind: type[T]) -> T:
    """hydra.sweeper of a composed config.

    Raises:
        LabError: naming the first key that is refused.
    """
    plain: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    # Within each other, so that errors name the whole key.
    hydra: Any = create_model("Hydra", __base__=Node, sweeper=(kind, ...))
    whole: Any = create_model("Whole", __base__=Node, hydra=(hydra, ...))
    checked: T = check_plain({"hydra": {"sweeper": plain}}, whole).hydra.sweeper
    return checked


class Placed(NamedTuple):
    """A run: the overrides of its job, and where it is kept."""

    words: list[str]
    varied: dict[str, Any]  # the keys that the sweep varies, with its values
    run: RunDirectory | None = None  # None: its config is refused, as its job will say
    config: Train | None = None

    @property
    def setting(self) -> str:
        """Shared by runs that differ in nothing but the seed."""
        return canonical({key: value for key, value in self.varied.items() if key != SEED})

    @property
    def name(self) -> str:
        """Of the setting, in a sentence."""
        values = [f"{key}={value}" for key, value in self.varied.items() if key != SEED]
        return ", ".join(values) or "the only setting"


def placed(
    config: DictConfig,
    loader: ConfigLoader,
    folder: Path,
    jobs: Sequence[list[str]],
    arguments: Sequence[str],
) -> list[Placed]:
    """Each of a sweep's jobs, as it is kept in the sweep's folder; `config` and `arguments` are the
    sweep's.

    Raises:
        LabError: if all are refused, with what is said of the last.
    """
    swept = CommandLine.parse(list(arguments), ()).swept
    candidates: list[Placed] = []
    problem = LabError("there is nothing to train")
    with hydra_config_lent() as read_from:
        for words in jobs:
            cfg = loader.load_sweep_config(config, words)
            read_from(cfg)
            overrides = list(cfg.hydra.overrides.task)
            varied = varied_values(overrides, swept, cfg.hydra.sweeper)
            own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            try:
                candidates.append(Placed(words, varied, *planned(own, folder, varied, overrides)))
            except LabError as error:
                problem = error
                candidates.append(Placed(words, varied))
    if all(one.run is None for one in candidates):
        raise problem
    return candidates


def by_setting(candidates: Sequence[Placed]) -> dict[str, list[Placed]]:
    """The runs of each setting, in their order; one that was asked for twice is one."""
    settings: dict[str, list[Placed]] = {}
    paths = set[Path]()
    for one in candidates:
        if one.run is None or one.run.path not in paths:
            settings.setdefault(one.setting, []).append(one)
        if one.run is not None:
            paths.add(one.run.path)
    return settings


def is_last(result: Result, fail_fast: bool) -> bool:
    """Whether no job is begun behind one that has ended so."""
    return result.status in ("skipped", "planned", *(FAILED if fail_fast else ()))


def end(folder: Path, results: Sequence[Result]) -> None:
    """The end of a sweep, as `finish` has it; its report too where nothing was left to train.

    Raises:
        LabError: if any job failed.
    """
    if results:
        finish(folder, results)
        return
    from lmlab.sweeps.reporting import report  # here, for it imports pandas

    say("nothing is left to train")
    report(folder)
