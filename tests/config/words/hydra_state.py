"""What Hydra holds in a process: it has one of each."""

from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase


def hydra_state() -> tuple[Any, ...]:
    return (
        GlobalHydra.instance().hydra,
        HydraConfig.instance().cfg,
        JobRuntime.instance().get("name"),
        VersionBase.instance().getbase(),
    )
