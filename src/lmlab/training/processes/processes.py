"""The processes that train one run: who starts them, and how they learn of the run's directory.

Lightning knows how many there are and which one this is, however they are started: by srun, by
torchrun, by a command on each node, or here. Those that nobody else starts are started here, and
not by Lightning: it would repeat the command that was typed, which may be a whole sweep. A helping
process is given the config of the one run that it is for. The first process of all makes the run
directory, and sends its path to the others once all have met.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.console import say
from lmlab.errors import LabError
from lmlab.training.processes.stopping import SIGNALS

if TYPE_CHECKING:
    import lightning as L

# Samples and pictures are made by one process, which must hold the whole model: no shards. And the
# process that trains is the one that was started: no forks.
STRATEGIES = (
    "auto",
    "single_device",
    "ddp",
    "ddp_find_unused_parameters_false",
    "ddp_find_unused_parameters_true",
)

# Where processes meet, and how they share the processors. The next run has other processes.
MEETING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
ENVIRONMENT = (*MEETING, "OMP_NUM_THREADS")

MOST_PROCESSES = 64  # that are started on one machine
PATIENCE = 15.0  # seconds in which a process notices by itself that another is gone


def trainer(config: dict[str, Any], **more: Any) -> L.Trainer:
    """Lightning's Trainer for a config, with settings of our own besides.

    Raises:
        LabError: with Lightning's own message, if it refuses the settings.
    """
    from lmlab.training import preflight

    settings = config["trainer"]
    if settings["strategy"] not in STRATEGIES:
        raise LabError(
            f"trainer.strategy={settings['strategy']}: models are not sharded and processes not "
            f"forked here; take one of {', '.join(STRATEGIES)}"
        )
    given = {key: settings[key] for key in (*preflight.SETTINGS, "num_nodes")}
    return preflight.checked_trainer("trainer: ", **given, **more)


class Processes:
    """Those that train one run: a context manager, at whose end the others are gone."""

    def __init__(self, config: dict[str, Any]):
        """Ask Lightning, which starts nothing yet.

        Raises:
            LabError: if it refuses the settings, or the way in which the processes were started.
        """
        from lightning.fabric.plugins.environments import TorchElasticEnvironment

        self.config = config
        show_nothing = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")
        asked = trainer(config, logger=False, **dict.fromkeys(show_nothing, False))
        self.rank, self.world_size = asked.global_rank, asked.world_size
        self.strategy: Any = asked.strategy
        self.n_nodes = asked.num_nodes
        self.place: Any = getattr(self.strategy, "cluster_environment", None)
        if self.place is None and TorchElasticEnvironment.detect():
            self.place = TorchElasticEnvironment()  # several processes, each by itself
        if self.place is not None:
            self._check()
        # Whether some others are started elsewhere, and wait for the first whatever becomes of it.
        self.outside = self.world_size > 1 and (
            self.n_nodes > 1 or self.place.creates_processes_externally
        )
        self._met = False
        self._helpers: dict[int, subprocess.Popen[bytes]] = {}  # by rank
        self._over = threading.Event()
        self._on_loss: Callable[[LabError], None] = lambda error: None

    def _check(self) -> None:
        from lightning.fabric.plugins.environments import LightningEnvironment

        try:
            self.place.validate_settings(num_devices=self._n_here, num_nodes=self.n_nodes)
        except ValueError as error:
            raise LabError(f"trainer: {error}") from error
        if self.world_size == 1:
            return
        if self._n_here > MOST_PROCESSES and not self.place.creates_processes_externally:
            raise LabError(
                f"trainer.devices={self._n_here}: a machine trains in at most {MOST_PROCESSES} "
                "processes"
            )
        if self.config["streams"] == "global":
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
    def _n_here(self) -> int:
        """How many processes this machine has."""
        return getattr(self.strategy, "num_processes", 1)

    def __enter__(self) -> Processes:
        import torch

        self._before = {name: os.environ.get(name) for name in ENVIRONMENT}
        self._n_threads = torch.get_num_threads()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            failed = isinstance(error, Exception)
            if self.outside and not self.rank and not self._met and (failed or error is None):
                with suppress(LabError):
                    self._meet()
                    self.strategy.broadcast(LabError(f"process 0: {error}") if failed else None)
        finally:
            self._leave(patience=0.0 if isinstance(error, Exception) else 60.0)

    def broadcast(self, what: Any, on_loss: Callable[[LabError], None]) -> None:
        """The first process: meet the others, send them `what`, and wait until all are ready.

        Where a helper is lost later and this process does not notice, `on_loss` is called, and this
        process ends.

        Raises:
            LabError: if one of them cannot get ready.
        """
        if self.world_size == 1:
            return
        self._on_loss = on_loss
        self._meet()
        self.strategy.broadcast(what)
        self.ready(None)

    def receive(self) -> Any:
        """The others: what the first process sends; None if there is nothing to do.

        Raises:
            LabError: if the first process has failed.
        """
        self._meet()
        received = self.strategy.broadcast(None)
        if isinstance(received, LabError):
            raise received
        return received

    def ready(self, problem: Exception | None) -> None:
        """Wait until all are ready. `problem` is why this one is not.

        Raises:
            LabError: if any is not.
        """
        import torch

        problems: list[str | None] = [None] * self.world_size
        mine = None if problem is None else str(problem) or type(problem).__name__
        torch.distributed.all_gather_object(problems, mine)
        if problem is not None:
            raise problem
        for rank, of_another in enumerate(problems):
            if of_another is not None:
                raise LabError(f"process {rank} of {self.world_size}: {of_another}")

    def _meet(self) -> None:
        self._met = True
        address = f"{self.place.main_address}:{self.place.main_port}"
        if not self.place.creates_processes_externally:
            self._start_helpers()
        if self.outside:
            say(f"waiting for {self.world_size} processes to meet at {address}")
        try:
            with _mortal() if self.outside else _undisturbed():
                self.strategy.setup_environment()
        except RuntimeError as error:
            first_line = str(error).splitlines()[0]
            raise LabError(
                f"{self.world_size} processes did not meet at {address}: {first_line}"
            ) from error

    def _start_helpers(self) -> None:
        """The other processes of this machine."""
        os.environ |= {
            "MASTER_ADDR": self.place.main_address,
            "MASTER_PORT": str(self.place.main_port),
            "NODE_RANK": str(self.place.node_rank()),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": "0",  # to Lightning: all have been started
        }
        modules = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
        script = "from lmlab.core import help_to_train; help_to_train()"
        for local_rank in range(1, self._n_here):
            # A helper reads its config from its standard input. While that stays open, this
            # process lives.
            with _undisturbed():  # a signal waits until the helper can take it
                helper = subprocess.Popen(
                    [sys.executable, "-P", "-c", script],
                    stdin=subprocess.PIPE,
                    env={**os.environ, "LOCAL_RANK": str(local_rank), "PYTHONPATH": modules},
                )
            self._helpers[self.rank + local_rank] = helper
            assert helper.stdin is not None
            pickle.dump(self.config, helper.stdin)
            helper.stdin.flush()
        threading.Thread(target=self._watch, name="helpers", daemon=True).start()

    def _watch(self) -> None:
        """End this process if another is lost and it hangs: in a collective, or waiting to meet."""
        import torch

        while not self._over.wait(0.5):
            patience = PATIENCE if torch.distributed.is_initialized() else 0.0
            if (lost := self.lost()) and not self._over.wait(patience):
                self._on_loss(lost)
                print(f"error: {lost}", file=sys.stderr, flush=True)
                os._exit(1)

    def lost(self, within: float = 0.0) -> LabError | None:
        """The failure of a helping process, if one has failed, or does `within` some seconds."""
        until = time.monotonic() + within
        while True:
            for rank, helper in self._helpers.items():
                if status := helper.poll():
                    how = (
                        f"was killed by {signal.Signals(-status).name}" if status < 0 else "failed"
                    )
                    return LabError(f"process {rank} of {self.world_size} {how}")
            if time.monotonic() >= until:
                return None
            time.sleep(0.1)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Where this process fails because another has, raise the other's failure."""
        try:
            yield
        except RuntimeError as error:  # torch's, in a collective
            if lost := self.lost(within=5):
                raise lost from error
            raise

    def _leave(self, patience: float) -> None:
        """Leave nothing behind; helpers that do not end within `patience` seconds are ended."""
        import torch

        self._over.set()
        if self._met and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        until = time.monotonic() + patience
        for helper in self._helpers.values():
            with suppress(subprocess.TimeoutExpired):
                helper.wait(max(0.0, until - time.monotonic()))
        for helper in self._helpers.values():
            assert helper.stdin is not None
            helper.stdin.close()
            try:
                helper.wait(5)
            except subprocess.TimeoutExpired:
                helper.kill()
                helper.wait()
        if self._met:
            torch.set_num_threads(self._n_threads)
            for name, value in self._before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait until the end of this. In a process that is started in it they go on waiting."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which sends a process no signals
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals() -> None:
    """Let the signals through again that `_undisturbed` holds back where a helper is started."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def _mortal() -> Iterator[None]:
    """Signals end this process at once: while it waits in torch, Python runs no handler of ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
