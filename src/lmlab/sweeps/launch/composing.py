"""Composing the configs of a sweep's jobs.

Most of Hydra's work is to find, read and merge files, and that is the same for all jobs with the
same options of the same groups: it is done once for all of them.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lmlab.config.check import plain_of
from lmlab.config.fingerprint import under
from lmlab.config.words.hydra_inside import hydra_config_lent, set_values

MOST = 64  # composed configs that are kept

# By sweep, and what was composed: what makes a copy of it. Of the process, since a worker is sent
# the loader with every job.
_composed: dict[tuple[str | None, ...], Callable[[], DictConfig]] = {}


class RememberingLoader(ConfigLoader):
    """Hydra's loader, which keeps what it has composed of groups and lets the values follow."""

    def __init__(self, loader: ConfigLoader):
        self._hydras = loader
        self._groups: dict[str, bool] = {}  # whether a key is one: Hydra looks into every folder
        self._sweep = uuid4().hex  # the next sweep of this process reads the files again

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """As Hydra's, which also composes groups first and then sets values in their order."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        if run_mode is not RunMode.RUN or any(o.is_sweep_override() for o in parsed):
            return self._hydras.load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        values = [override for override in parsed if self.is_value(override)]
        groups = [str(o.input_line) for o in parsed if o not in values]
        key = (self._sweep, config_name, *groups)
        if key not in _composed:
            while len(_composed) >= MOST:
                del _composed[next(iter(_composed))]
            composed = self._hydras.load_configuration(
                config_name, groups, run_mode, from_shell, validate_sweep_overrides
            )
            _composed[key] = _copies_of(composed)
        config = _composed[key]()
        of_task = [override for override in parsed if not override.is_hydra_override()]
        set_values(config, values, of_task)
        with open_dict(config.hydra):
            config.hydra.overrides.task = [override.input_line for override in of_task]
            config.hydra.overrides.hydra = [
                override.input_line for override in parsed if override.is_hydra_override()
            ]
        return config

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """A job's config, with what the sweep's has resolved once, such as the time."""
        overrides = [*master_config.hydra.overrides.hydra, *sweep_overrides]
        name = master_config.hydra.job.config_name
        config = self.load_configuration(name, overrides, RunMode.RUN)
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def is_value(self, override: Override) -> bool:
        """Whether it sets a value, which no file is chosen by; a dict of a group's name does."""
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = bool(self._hydras.get_group_options(key, None))
        is_group = self._groups[key] and not isinstance(override.value(), dict)
        return not (is_group or override.is_hydra_override() or override.package)

    def get_search_path(self) -> ConfigSearchPath:
        """Hydra's."""
        return self._hydras.get_search_path()

    def get_sources(self) -> list[ConfigSource]:
        """Hydra's."""
        return self._hydras.get_sources()

    def list_groups(self, parent_name: str) -> list[str]:
        """Hydra's."""
        return self._hydras.list_groups(parent_name)

    def get_group_options(self, group_name: str, *how: Any, **further: Any) -> list[str]:
        """Hydra's."""
        return self._hydras.get_group_options(group_name, *how, **further)

    def compute_defaults_list(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode
    ) -> Any:
        """Hydra's."""
        return self._hydras.compute_defaults_list(config_name, overrides, run_mode)


def _copies_of(config: DictConfig) -> Callable[[], DictConfig]:
    """What makes copies of a config: from a pickle, in a sixth of the time, if its classes can be
    pickled. (Those of a launcher cannot where Hydra, looking for plugins, imported it twice.)"""
    try:
        return partial(pickle.loads, pickle.dumps(config))
    except pickle.PicklingError:
        return partial(copy.deepcopy, config)


# What says where a job is kept, or makes another config of it: no single value among others.
NOT_SINGLE = ("hydra", "sweep", "output_dir", "run_dir", "from")
REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(\.\w+)*)\}")  # ${trainer.max_steps}
OF_CHOICES = re.compile(r"\$\{hydra:runtime\.choices\.[\w/-]+\}")


@dataclass(frozen=True)
class PlainJob:
    """A job's config in plain containers, without Hydra's node, and what it is composed of."""

    plain: dict[str, Any]
    overrides: list[Override]


class PlainConfigs:
    """The configs of a sweep's jobs. Of jobs that differ in single values alone the first one is
    composed, and the others are as it is but for these values."""

    def __init__(self, config: DictConfig, loader: RememberingLoader):
        """`config` is the sweep's."""
        self._config, self._loader = config, loader
        self._parser = OverridesParser.create()
        self._parsed: dict[str, Override] = {}
        # By all that a job says but the single values: None where one is not what it seems.
        self._composed: dict[tuple[Any, ...], dict[str, Any] | None] = {}

    def of(self, words: Sequence[str]) -> PlainJob:
        """What Hydra composes of a job's words.

        Raises:
            LabError, HydraException: if it cannot be composed.
        """
        overrides = [self._parse(word) for word in words]
        single = {o.key_or_group: _value(o) for o in overrides if self._is_single(o)}
        shape = tuple(
            (o.key_or_group, type(_value(o))) if self._is_single(o) else word
            for word, o in zip(words, overrides, strict=True)
        )
        if shape not in self._composed:
            plain, unresolved = self._compose(words)
            is_alike = all(_is_there(plain, *pair) for pair in single.items())
            is_alike &= not any(_may_follow(text, single) for text in _texts(unresolved))
            self._composed[shape] = plain if is_alike else None
        like = self._composed[shape]
        if like is None:
            return PlainJob(self._compose(words)[0], overrides)
        for key, value in single.items():
            like = _with(like, key.split("."), value)
        return PlainJob(like, overrides)

    def _compose(self, words: Sequence[str]) -> tuple[dict[str, Any], Any]:
        """A job's config, its interpolations resolved and not."""
        with hydra_config_lent() as read_from:
            cfg = self._loader.load_sweep_config(self._config, list(words))
            read_from(cfg)
            own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            plain: dict[str, Any] = plain_of(own)
            return plain, OmegaConf.to_container(own, resolve=False)

    def _parse(self, word: str) -> Override:
        if word not in self._parsed:
            self._parsed[word] = self._parser.parse_override(word)
        return self._parsed[word]

    def _is_single(self, override: Override) -> bool:
        value = _value(override)
        if override.type is not OverrideType.CHANGE or not self._loader.is_value(override):
            return False
        if isinstance(value, str) and ("${" in value or value == "???"):
            return False
        is_scalar = value is None or isinstance(value, bool | int | float | str)
        return is_scalar and not under(override.key_or_group, NOT_SINGLE)


def _value(override: Override) -> Any:
    value = override.value()
    return value.text if isinstance(value, QuotedString) else value


def _is_there(plain: Any, key: str, value: Any) -> bool:
    """Whether a value is what a key has, and not what was made of it, or of a later word."""
    for part in key.split("."):
        if not isinstance(plain, dict) or part not in plain:
            return False
        plain = plain[part]
    return type(plain) is type(value) and bool(plain == value)


def _texts(node: Any) -> Iterator[str]:
    """All texts of nested containers that hold an interpolation."""
    if isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _texts(child)
    elif isinstance(node, str) and "${" in node:
        yield node


def _may_follow(text: str, keys: Mapping[str, Any]) -> bool:
    """Whether an interpolation may change with one of these keys."""
    referred = [match[1] for match in REFERENCE.finditer(text)]
    if "${" in OF_CHOICES.sub(
        "", REFERENCE.sub("", text)
    ):  # of a resolver, or of another key's value
        return True
    return any(under(a, (b,)) or under(b, (a,)) for a in referred for b in keys)


def _with(node: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The same containers, but for one value."""
    key, *further = path
    return {**node, key: _with(node[key], further, value) if further else value}
