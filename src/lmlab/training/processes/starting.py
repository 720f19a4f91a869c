"""Starting the processes that train a run on this machine, by torch's elastic agent.

Each of them trains as any process does that torchrun has started. The one that starts them looks
after them: the agent ends all when one fails, and what a signal asks of this one it asks of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lmlab.config.check import check_plain
from lmlab.config.schema import Train
from lmlab.console import current_console, logged_to, make_console, say, shown_on
from lmlab.errors import DivergedError, LabError, first_line
from lmlab.files import lock_at
from lmlab.runs.directory import LOG, RunDirectory
from lmlab.training.outcome import record_failure
from lmlab.training.processes.stopping import Interrupted, Pruned, handled_by

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from lmlab.training.processes.processes import Processes

LOCK, JOB, RUN = "lock", "job.json", "run"  # in the folder that they share
KINDS = {kind.__name__: kind for kind in (LabError, DivergedError)}
STOPPED = 128  # and the signal's number: the exit status of a process that was asked to stop
# Not by `-m`: where this process has looked for modules, they look too.
SCRIPT = """
import sys
sys.path[:] = {path!r}
from lmlab.core.train import train
from lmlab.training.processes.starting import train_job
train_job({folder!r}, train)
"""


def start(processes: Processes, config: Train, **asked: Any) -> RunDirectory | None:
    """Train a config in processes of their own, and return the run that the first one has made;
    None where that is on another node.

    Raises:
        LabError: what one of them raised, or that it was lost.
        Interrupted: if a signal asked to stop.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    signals: list[int] = []
    with TemporaryDirectory(prefix="lmlab-") as name:
        folder = Path(name)
        lock, path_of_run = lock_at(folder / LOCK, folder), folder / RUN

        def hand_on(signum: int, frame: Any) -> None:
            signals.append(signum)
            if len(signals) == 1:  # the agent sends it to all of them, and waits for their end
                raise SignalException("asked to stop", signal.Signals(signum))
            if signum == signal.SIGINT:
                lock.release()  # asked twice: at once

        quiet = current_console().quiet
        (folder / JOB).write_text(json.dumps({"config": config.plain(), "quiet": quiet, **asked}))
        failures: dict[int, ProcessFailure] = {}
        with lock:
            try:
                _run_agent(processes, folder, hand_on)
            except ChildFailedError as failed:
                failures = failed.failures
            except SignalException:
                pass  # asked to stop
        run = RunDirectory(Path(path_of_run.read_text())) if path_of_run.is_file() else None
    record = run.unchecked_record if run else {}
    signals += [f.exitcode - STOPPED for f in failures.values() if f.exitcode > STOPPED]
    if signals and record.get("status") != "done":
        raise Interrupted(signals[0], record.get("step", 0))
    if failures:
        error = _cause(failures, processes.world_size)
        if run and record and record.get("error") != f"{type(error).__name__}: {error}":
            with logged_to(run.path / LOG):  # its first process could not know
                record_failure(run, error)
        raise error
    if record.get("status") == "pruned":
        raise Pruned(record["step"], "its log says why")
    return run


def _run_agent(processes: Processes, folder: Path, handler: Callable[[int, Any], None]) -> None:
    """Start them, on this node, and wait for their end; with several nodes, for those of all."""
    from torch.distributed import TCPStore
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    place, n_nodes = processes.place, processes.n_nodes
    host, port, node = place.main_address, place.main_port, place.node_rank()
    if n_nodes > 1:
        say(f"waiting for {n_nodes} nodes to meet at {host}:{port}")
    try:
        # The agents meet here as well. In torch's waiting Python runs no handler of ours.
        with handled_by(signal.SIG_DFL):
            store = TCPStore(
                host, port, n_nodes, node == 0, timedelta(minutes=30), multi_tenant=True
            )
    except RuntimeError as error:
        raise LabError(
            f"{n_nodes} nodes did not meet at {host}:{port}: {first_line(error)}"
        ) from error
    path = [entry or str(Path.cwd()) for entry in sys.path]
    settings = LaunchConfig(
        min_nodes=n_nodes,
        max_nodes=n_nodes,
        nproc_per_node=processes.n_here,
        run_id="lmlab",
        rdzv_backend="static",
        rdzv_endpoint=f"{host}:{port}",
        rdzv_configs={"rank": node},
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(str(folder)),
        signals_to_handle="",  # they are handled here
        shutdown_timeout=10**6,  # seconds: a last evaluation takes its time
    )
    launch = elastic_launch(settings, sys.executable)
    try:
        with handled_by(handler):
            launch("-P", "-c", SCRIPT.format(path=path, folder=str(folder)))
    finally:
        os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)  # the agent leaves it behind
        del store


def _cause(failures: Mapping[int, ProcessFailure], n: int) -> LabError:
    """Of what ended several processes, what ended the others.

    Where one is gone, whatever the others do together fails with a RuntimeError of torch's; and
    those that do nothing together the agent ends by SIGTERM.
    """

    def is_later(rank: int) -> bool:
        ended_by_agent = failures[rank].exitcode == -signal.SIGTERM
        return ended_by_agent or _raised(failures[rank])[0] == "RuntimeError"

    rank = min(failures, key=lambda rank: (is_later(rank), failures[rank].exitcode > 0, rank))
    who, (kind, message) = f"process {rank} of {n}", _raised(failures[rank])
    if failures[rank].exitcode < 0:
        return LabError(f"{who} was killed by {failures[rank].signal_name()}")
    if kind in KINDS:
        return KINDS[kind](message if rank == 0 else f"{who}: {message}")
    return LabError(f"{who} failed: {kind}: {message}" if kind else f"{who} failed")


def _raised(failure: ProcessFailure) -> tuple[str, str]:
    """The name and the message of the exception that ended a process; empty if none did."""
    written: Any = failure.message
    kind, _, message = (
        written["message"].partition(": ") if isinstance(written, dict) else ("",) * 3
    )
    return kind, message


def train_job(folder: str, train: Callable[..., Any]) -> None:
    """What each of the processes does. How it fails is in a file, which the agent reads."""
    from torch.distributed.elastic.multiprocessing.errors import record

    def end_with_the_starter() -> None:
        with suppress(LabError, OSError):  # the folder is gone
            lock_at(Path(folder, LOCK), Path(folder)).acquire(poll_interval=0.3)
        os._exit(1)

    threading.Thread(target=end_with_the_starter, daemon=True).start()
    job = json.loads(Path(folder, JOB).read_text())

    def begun(run: Path) -> None:
        Path(folder, RUN).write_text(str(run))

    try:
        with shown_on(make_console(quiet=True) if job.pop("quiet") else None):
            config = check_plain(job.pop("config"), Train)
            record(train)(config, **job, begun=begun)
    except Interrupted as stopped:
        sys.exit(STOPPED + stopped.signum)
    except Pruned:
        pass  # the record says so
    except Exception:
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is over
