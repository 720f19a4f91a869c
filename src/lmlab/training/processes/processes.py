"""The processes that train one run: how many there are, which one this is, and how they agree.

Lightning knows, however they are started: by srun, by torchrun, by a command on each node, or here.
Those that nobody else starts are started here, and not by Lightning: it would repeat the command
that was typed, which may be a whole sweep.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lmlab.console import make_console, say, shown_on
from lmlab.errors import LabError, first_line
from lmlab.training.processes.started import is_alone_in_slurm
from lmlab.training.processes.stopping import handled_by

if TYPE_CHECKING:
    import lightning as L

    from lmlab.config.schema import Train

# Samples and pictures are made by one process, which must hold the whole model: no shards. And the
# process that trains is the one that was started: no forks.
STRATEGIES = (
    "auto",
    "single_device",
    "ddp",
    "ddp_find_unused_parameters_false",
    "ddp_find_unused_parameters_true",
)

# The Trainer's settings that a config has, with their defaults.
SETTINGS = {"accelerator": "auto", "devices": "auto", "strategy": "auto", "precision": "32-true"}

MOST_PROCESSES = 64  # that are started on one machine


def trainer(config: Train, **more: Any) -> L.Trainer:
    """Lightning's Trainer for a config, with settings of our own besides.

    Raises:
        LabError: with Lightning's own message, if it refuses the settings.
    """
    settings = config.trainer
    if settings.strategy not in STRATEGIES:
        raise LabError(
            f"trainer.strategy={settings.strategy}: models are not sharded and processes not "
            f"forked here; take one of {', '.join(STRATEGIES)}"
        )
    given = settings.model_dump(include={*SETTINGS, "num_nodes"})
    return checked_trainer("trainer: ", **given, **more)


def checked_trainer(key: str, **settings: Any) -> L.Trainer:
    """Lightning's Trainer; what it says of settings that do not go together is the user's to know.

    Raises:
        LabError: if they do not, with those that were chosen, under `key`.
    """
    import lightning as L
    from lightning.pytorch.plugins.environments import LightningEnvironment
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from lmlab.training.lightning_inside import packages_asked_once

    if is_alone_in_slurm(settings):
        settings["plugins"] = [*settings.get("plugins", ()), LightningEnvironment()]
    try:
        with packages_asked_once():
            return L.Trainer(**settings)
    # TypeError: of devices. ImportError: of a strategy or an accelerator that is not installed.
    except (ValueError, TypeError, ImportError, RuntimeError, MisconfigurationException) as error:
        chosen = [
            f"{name}={settings[name]!r}"
            for name, default in SETTINGS.items()
            if settings.get(name, default) != default
        ]
        raise LabError(f"{key}{' '.join(chosen)}: {first_line(error)}") from error


class Processes:
    """Those that train one run, this one among them."""

    def __init__(self, config: Train):
        """Ask Lightning, which starts nothing yet.

        Raises:
            LabError: if it refuses the settings, or the way in which the processes were started.
        """
        from lightning.fabric.plugins.environments import TorchElasticEnvironment

        show_nothing = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")
        asked = trainer(config, logger=False, **dict.fromkeys(show_nothing, False))
        self.rank, self.world_size = asked.global_rank, asked.world_size
        self.n_nodes, self.strategy = asked.num_nodes, asked.strategy
        self.n_here: int = getattr(self.strategy, "num_processes", 1)  # on this node
        self.place: Any = getattr(self.strategy, "cluster_environment", None)
        if self.place is None and TorchElasticEnvironment.detect():
            self.place = TorchElasticEnvironment()  # several processes, each by itself
        if self.place is not None:
            self._check(config)

    def _check(self, config: Train) -> None:
        from lightning.fabric.plugins.environments import LightningEnvironment

        try:
            self.place.validate_settings(num_devices=self.n_here, num_nodes=self.n_nodes)
        except ValueError as error:
            raise LabError(f"trainer: {error}") from error
        if self.world_size == 1:
            return
        if self.n_here > MOST_PROCESSES and not self.place.creates_processes_externally:
            raise LabError(
                f"trainer.devices={self.n_here}: a machine trains in at most {MOST_PROCESSES} "
                "processes"
            )
        if config.streams == "global":
            raise LabError(
                f"streams=global is the one stream of a single process, and trainer.devices and "
                f"trainer.num_nodes ask for {self.world_size}"
            )
        needed = ["MASTER_ADDR", "MASTER_PORT", "NODE_RANK"] if self.n_nodes > 1 else []
        if self.place.creates_processes_externally:
            needed = needed or ["MASTER_PORT"]
        missing = [name for name in needed if name not in os.environ]
        if isinstance(self.place, LightningEnvironment) and missing:
            raise LabError(
                f"trainer.num_nodes={self.n_nodes}: processes that are started one by one meet by "
                f"the environment's {', '.join(needed)}; {', '.join(missing)} not set"
            )

    @property
    def are_to_be_started(self) -> bool:
        """Whether nobody else starts those of this node."""
        return self.world_size > 1 and not self.place.creates_processes_externally

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @contextmanager
    def met(self) -> Iterator[None]:
        """Within, they can gather and agree, and only the first is heard.

        Raises:
            LabError: if they do not find each other.
        """
        import torch

        if self.world_size == 1:
            yield
            return
        address = f"{self.place.main_address}:{self.place.main_port}"
        if self.is_first and "TORCHELASTIC_RUN_ID" not in os.environ:
            say(f"waiting for {self.world_size} processes to meet at {address}")
        try:
            with handled_by(signal.SIG_DFL):  # while it waits in torch, Python runs no handler
                self.strategy.setup_environment()
        except RuntimeError as error:
            raise LabError(
                f"{self.world_size} processes did not meet at {address}: {first_line(error)}"
            ) from error
        try:
            with shown_on(None if self.is_first else make_console(quiet=True)):
                yield
        finally:
            torch.distributed.destroy_process_group()

    def gather(self, mine: Any) -> list[Any]:
        """What each process has, by rank."""
        return gathered(mine, self.world_size)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """What fails in one of them within this fails in all at its end. It may not gather.

        Raises:
            LabError: where another has failed, with its message.
        """
        if self.world_size == 1:
            yield
            return
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
        why = None if problem is None else str(problem) or type(problem).__name__
        everyones = self.gather(why)
        if problem is not None:
            raise problem
        for rank, why in enumerate(everyones):
            if why is not None:
                raise LabError(f"process {rank} of {self.world_size}: {why}")


def gathered(mine: Any, world_size: int) -> list[Any]:
    """What each of the processes that have met has, by rank."""
    import torch

    if world_size == 1:
        return [mine]
    everyones: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(everyones, mine)
    return everyones
