"""Composing the configs of a sweep's jobs.

Most of Hydra's work is to find, read and merge files, and that is the same for all jobs with the
same options of the same groups: it is done once for all of them.
"""

from __future__ import annotations

import copy
from typing import Any
from uuid import uuid4

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lmlab.config.words.hydra_inside import set_values

MOST = 64  # composed configs that are kept

# By sweep, and what was composed. Of the process, since a worker is sent the loader with every job.
_composed: dict[tuple[str | None, ...], DictConfig] = {}


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
        values = [override for override in parsed if self._is_value(override)]
        groups = [str(o.input_line) for o in parsed if o not in values]
        key = (self._sweep, config_name, *groups)
        if key not in _composed:
            while len(_composed) >= MOST:
                del _composed[next(iter(_composed))]
            _composed[key] = self._hydras.load_configuration(
                config_name, groups, run_mode, from_shell, validate_sweep_overrides
            )
        config = copy.deepcopy(_composed[key])
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

    def _is_value(self, override: Override) -> bool:
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
