"""The worker processes of a pool: each begins with all imported, and goes from job to job."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

IMPORTED = "lmlab.sweeps.launch.imported"
# Elsewhere libraries of the system's have threads of their own, which a fork does not survive.
METHOD = "forkserver" if sys.platform == "linux" else "spawn"


def begun(environment: Mapping[str, str]) -> ProcessPoolExecutor:
    """A worker process, with an environment besides this process's. It ends with this process.

    On Linux it is a fork of one that has imported what jobs need, which takes seconds; that one is
    begun with the first worker, and ends with the last.
    """
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload([IMPORTED])
    with _added(environment), _without_main():
        whole = dict(os.environ)
        executor = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(whole,))
        executor.submit(_import_all)  # which starts the process
    return executor


@contextmanager
def _added(environment: Mapping[str, str]) -> Iterator[None]:
    """For what is started now: libraries read how many threads to have as they are loaded."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _without_main() -> Iterator[None]:
    """A process that is started now does not run the script that started it: few guard theirs."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _begin(environment: dict[str, str]) -> None:
    has = os.environ.get("OMP_NUM_THREADS")
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process asks by SIGTERM
    threading.Thread(target=_end_with_the_first, name="parent", daemon=True).start()
    wanted = environment.get("OMP_NUM_THREADS")
    if wanted != has and wanted is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(wanted))


def _import_all() -> None:
    importlib.import_module(IMPORTED)


def _end_with_the_first() -> None:
    """End this process once the one that gives it jobs has ended, however that was: the run that it
    trains finishes its step and leaves a checkpoint."""
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os.kill(os.getpid(), signal.SIGTERM)  # a worker without a job ends here
    while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # a run has taken it
        time.sleep(0.1)
    os._exit(128 + signal.SIGTERM)  # and has ended


def sweep_of(launcher: Any) -> bytes:
    """What the jobs of a launcher of the lab's have in common: where this process is, and what
    Hydra has registered here."""
    from hydra.core.singleton import Singleton
    from joblib.externals.loky.backend.reduction import dumps  # of functions within functions, too

    shared = launcher.hydra_context, launcher.config, launcher.task_function
    return bytes(dumps((*shared, Singleton.get_state(), Path.cwd())))


@lru_cache(maxsize=1)
def _taken_up(sweep: bytes) -> Any:
    """Be where the first process is, once for all jobs of a sweep."""
    from hydra.core.singleton import Singleton
    from hydra.core.utils import setup_globals

    context, config, task, state, folder = pickle.loads(sweep)
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    return context, config, task


def run(number: int, overrides: list[str], sweep: bytes) -> bytes:
    """One job of a sweep; see `returned`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import run_job
    from joblib.externals.loky.backend.reduction import dumps
    from omegaconf import open_dict

    context, config, task = _taken_up(sweep)
    job = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = number
    HydraConfig.instance().set_config(job)
    done = run_job(
        hydra_context=context,
        task_function=task,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    return bytes(dumps(done))


def returned(pickled: bytes) -> list[Any]:
    """What Hydra says of a job that `run` has run. It holds the whole config twice, and most who
    wait for a job do not look at it."""
    return [pickle.loads(pickled)]
