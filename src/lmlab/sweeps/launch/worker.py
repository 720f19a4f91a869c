"""What a worker process of a pool does: it imports everything once, and goes from job to job."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

LOOKS_EVERY = 1.0  # seconds


def end_with(parent: int) -> None:
    """End this process soon after the one that gives it jobs has ended, however that was: the run
    that it trains finishes its step and leaves a checkpoint."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOKS_EVERY)
        os.kill(os.getpid(), signal.SIGTERM)  # a worker without a job ends here
        while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # a run has taken it
            time.sleep(0.1)
        os._exit(128 + signal.SIGTERM)  # and has ended

    threading.Thread(target=watch, name="parent", daemon=True).start()


def import_all() -> None:
    """Import what a job needs, which takes seconds: while its config is still being checked."""
    import lmlab.core.train
    import lmlab.sweeps.launch.job  # noqa: F401

    gc.collect()
    gc.freeze()  # what is there now stays: no later collection looks through it


def run(
    number: int,
    overrides: list[str],
    context: Any,
    config: Any,
    task: Any,
    state: Any,
    folder: Path,
) -> Any:
    """One job: where the first process is, with what Hydra has registered there."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton
    from hydra.core.utils import run_job, setup_globals
    from omegaconf import open_dict

    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    job = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = number
    HydraConfig.instance().set_config(job)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
