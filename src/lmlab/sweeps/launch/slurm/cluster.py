"""A SLURM cluster: what is submitted to its queue, and what is there.

What the queue no longer has, and has not said how it ended, was taken away: preempted, cancelled,
or lost with its node.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from omegaconf import OmegaConf

from lmlab.errors import LabError
from lmlab.training.processes.stopping import Interrupted

ASK = ("squeue", "--me", "--noheader", "--array", "--format=%i|%T")
# squeue shows jobs that have ended, too, for some minutes where SQUEUE_STATES says so.
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
OVER |= {"PREEMPTED", "REVOKED", "TIMEOUT"}
MOST_SECONDS = 60  # for an answer
OF_THE_LAUNCHER = {"submitit_folder", "max_num_timeout"}  # what says nothing about a single job


def queued() -> dict[str, str]:
    """The state of each job of this user that waits or runs, by its name: 12, or 12_3 of an array.

    Raises:
        LabError: if the cluster does not say.
    """
    try:
        told = subprocess.run(
            ASK, capture_output=True, text=True, check=True, timeout=MOST_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).split()
        raise LabError(f"squeue does not tell of the jobs: {' '.join(why)}") from error
    states = dict(line.strip().split("|", 1) for line in told.splitlines() if "|" in line)
    return {name: state for name, state in states.items() if state not in OVER}


def submit_all(launcher: Any, jobs: Sequence[Sequence[str]], first: int = 0) -> list[Any]:
    """Submit jobs, numbered from `first`, as one array, as the launcher itself does; submitit's
    handle of each.

    Raises:
        LabError: if there is no cluster.
    """
    import submitit
    from hydra.core.singleton import Singleton
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    params = launcher.params
    try:
        executor = submitit.AutoExecutor(
            cluster="slurm",
            folder=params["submitit_folder"],
            slurm_max_num_timeout=params["max_num_timeout"],
        )
    except RuntimeError as error:
        raise LabError("hydra/launcher=submitit_slurm: there is no SLURM here (no srun)") from error
    of_all = set(OmegaConf.structured(BaseQueueConf))
    of_jobs = {name: value for name, value in params.items() if name not in OF_THE_LAUNCHER}
    executor.update_parameters(
        **{n if n in of_all else f"slurm_{n}": value for n, value in of_jobs.items()}
    )
    state = Singleton.get_state()
    calls = [
        (list(words), "hydra.sweep.dir", number, f"job {number}", state)
        for number, words in enumerate(jobs, first)
    ]
    return list(executor.map_array(launcher, *zip(*calls, strict=True)))


@contextmanager
def put_back_when_asked() -> Iterator[None]:
    """Within a job of submitit's on a cluster: its signal that the time is up, or that the place is
    needed, lets a run write its checkpoint before submitit puts the job back into the queue."""
    on_cluster = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
    if not on_cluster or threading.current_thread() is not threading.main_thread():
        yield
        return
    from submitit import JobEnvironment

    asks = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
    put_back = signal.getsignal(asks)
    was_asked = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal was_asked
        was_asked = True
        signal.raise_signal(signal.SIGTERM)  # what a run listens to

    signal.signal(asks, stop)
    try:
        yield
    except Interrupted:
        if was_asked and callable(put_back):
            put_back(asks, None)  # and leaves
        raise
    finally:
        signal.signal(asks, put_back)
