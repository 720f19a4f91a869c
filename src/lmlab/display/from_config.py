"""The loggers of a config: our own, and those of others, whose errors never end a training."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lmlab.config import build
from lmlab.config.schema import Train
from lmlab.console import log, say
from lmlab.display.loggers import EventFiles, MetricsCSV
from lmlab.errors import LabError, first_line, typed_line
from lmlab.runs.directory import RunDirectory

MakeLoggers = Callable[[RunDirectory, int | None], Iterator[Logger]]
MakeLogger = Callable[[RunDirectory, int | None], Logger | None]

OURS = (EventFiles, MetricsCSV)
EXTRAS = {WandbLogger: "wandb", MLFlowLogger: "mlflow"}  # the package that each needs: our extra
RUN_ID = ("run_id", "id", "experiment_key")  # what constructors call a run that is to go on
CALLS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "end")
HOW_ASKED = ("run", "resume", "pause_at", "dry_run", "sweep", "logger")  # no part of the experiment


def loggers(config: Train) -> MakeLoggers:
    """What makes the loggers of a config, for a run and the step where it goes on.

    Raises:
        LabError: if one is no logger, needs a package that is not installed, or does not take its
            arguments.
    """
    about = {key: value for key, value in config.plain().items() if key not in HOW_ASKED}
    nodes = config.logger.items()
    makers = [_maker(node, name, about) for name, node in nodes if isinstance(node, dict)]

    def make_all(run: RunDirectory, resume_step: int | None) -> Iterator[Logger]:
        for make in makers:
            logger = make(run, resume_step)
            if logger is not None:
                yield logger

    return make_all


def _maker(node: dict[str, Any], name: str, about: dict[str, Any]) -> MakeLogger:
    """What makes one logger, or None where its constructor fails.

    A constructor that names `folder` (or Lightning's `save_dir`) or `resume_step` is given them,
    unless its node does. One that names `run_id`, `id` or `experiment_key` is of a tracker that has
    runs of its own: it is given the id of the one that this run began there, once there is one.
    """
    key = f"logger.{name}"
    made: partial[Logger] = build.unmade(node, key, Logger)
    _check_installed(made.func, key)
    parameters = inspect.signature(made.func).parameters
    free = {*parameters} - {name for name, value in made.keywords.items() if value is not None}
    given = free & {"folder", "save_dir", "resume_step"}
    run_id = next((name for name in RUN_ID if name in parameters), "")
    if run_id in free and parameters[run_id].default is inspect.Parameter.empty:
        given.add(run_id)
    try:
        inspect.signature(made.func).bind(**{**made.keywords, **dict.fromkeys(given)})
    except TypeError as error:
        raise LabError(f"{key}: {node['_target_']} cannot be made: {error}") from error

    def make(run: RunDirectory, resume_step: int | None) -> Logger | None:
        known = {"folder": run.path, "save_dir": run.path, "resume_step": resume_step}
        arguments = {name: known.get(name) for name in given}
        if made.func in OURS:
            return build.part(node, key, Logger, **arguments)
        tracked = run.record.get("trackers", {}).get(name)
        if tracked is not None and run_id in free:
            arguments[run_id] = tracked
        guard = _Guard(key)
        with guard.reporting():
            logger = build.part(node, key, Logger, **arguments)
            if run_id:
                _keep_run_id(run, name, logger)
            guard.wrap(logger)
            if tracked is None:
                _log_config(logger, about)
            return logger
        return None

    return make


def _check_installed(kind: Any, key: str) -> None:
    for logger, package in EXTRAS.items():
        wanted = isinstance(kind, type) and issubclass(kind, logger)
        if wanted and importlib.util.find_spec(package) is None:
            raise LabError(f'{key} needs an extra: pip install "lmlab[{package}]"')


@rank_zero_only
def _keep_run_id(run: RunDirectory, name: str, logger: Logger) -> None:
    """Begin the tracker's run, or open the one that goes on, and keep its id in the record."""
    getattr(logger, "experiment", None)  # Lightning's loggers have no run before this is asked for
    if isinstance(logger.version, str | int):
        run.update(trackers={**run.record.get("trackers", {}), name: logger.version})


@rank_zero_only
def _log_config(logger: Logger, about: dict[str, Any]) -> None:
    logger.log_hyperparams(about)


class _Guard:
    """Keeps a logger's errors away from the training; the first of them is printed.

    Our own two loggers may end a training: where they cannot write, checkpoints cannot be written.
    """

    def __init__(self, key: str):
        self.key, self.printed = key, False

    @contextmanager
    def reporting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self.printed:
                return
            self.printed = True
            names_key = isinstance(error, LabError)
            reason = first_line(error) if names_key else f"{self.key}: {typed_line(error)}"
            say(f"{reason}; training goes on without it")
            log.warning("%s failed", self.key, exc_info=error)

    def wrap(self, logger: Logger) -> None:
        """Do so for everything that is called while training."""

        def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(call)
            def tried(*args: Any, **kwargs: Any) -> Any:
                with self.reporting():
                    return call(*args, **kwargs)

            return tried

        for name in CALLS:
            if hasattr(logger, name):
                setattr(logger, name, guarded(getattr(logger, name)))
