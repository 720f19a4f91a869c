"""What was asked for, as a checked config: Hydra composes; a run or a parent fills in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.conf import conf_dir
from lmlab.errors import LabError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmlab.sweeps.journal import Result


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

    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:  # Hydra may have made another of each
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = before


def asked(cfg: DictConfig, given: dict[str, str]) -> dict[str, Any]:
    """The checked config of one run: what Hydra has composed, which is its current job, with the
    keys that are taken literally.

    With `run` it is the config that is stored there, and with `from` the parent's, each changed by
    the overrides.

    Raises:
        LabError: for what the user can put right.
    """
    from hydra.core.hydra_config import HydraConfig

    from lmlab import schema
    from lmlab.config import check
    from lmlab.parents import config_of

    if "run" in given:
        cfg = _continued(given["run"])
    elif "from" in given:
        given = dict(given)
        cfg["from"] = given.pop("from")
        cfg = config_of(cfg, HydraConfig.get().overrides.task)
    return check(cfg, schema.Train, **given)


def job(cfg: DictConfig, swept: set[str]) -> Result:
    """Train one job of a multirun: what Hydra has composed, which varies the keys `swept`."""
    from hydra.core.hydra_config import HydraConfig

    from lmlab.sweeps.job import run_job

    hydra = HydraConfig.get()
    sweep_dir, overrides = Path(hydra.sweep.dir), list(hydra.overrides.task)
    return run_job(cfg, sweep_dir, _swept_values(swept), overrides, chosen())


def chosen() -> dict[str, str]:
    """The options that the config was composed of, by group."""
    from hydra.core.hydra_config import HydraConfig

    found = HydraConfig.get().runtime.choices
    return {
        group: option
        for group, option in found.items()
        if option is not None and not group.startswith(("hydra", "experiment", "sweep"))
    }


def _continued(path: str) -> DictConfig:
    """The config stored in a run, changed by the overrides on the command line."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import DictConfig, OmegaConf

    from lmlab.runs import Run

    cfg = OmegaConf.create(Run.open(path).config)
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    for override in overrides:
        key, value = override.key_or_group, override.value()
        turned_off = key.startswith("logger.") and (value is None or value is False)
        is_group = isinstance(OmegaConf.select(cfg, key), DictConfig) and not turned_off
        if is_group or key == "experiment":
            raise LabError(f"{key}={value}: a run is continued with its own {key}")
        OmegaConf.update(cfg, key, value)
    return cfg


def _swept_values(swept: set[str]) -> dict[str, Any]:
    """The keys that the multirun varies, with the values they have in this job."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from lmlab.sweeps.axes import swept_keys
    from lmlab.sweeps.grammar import key_of, settings

    hydra = HydraConfig.get()
    axes = swept | {key.lstrip("+~") for key in swept_keys(hydra.sweeper)}
    parsed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    values = {key: v for o in parsed for key, v in settings(key_of(o), o.value()).items()}
    return {key: _plain_value(value) for key, value in values.items() if key in axes}


def _plain_value(value: Any) -> Any:
    """A value of Hydra's grammar as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain_value(inner) for inner in value]
    return value if isinstance(value, bool | int | float | None) else str(value)
