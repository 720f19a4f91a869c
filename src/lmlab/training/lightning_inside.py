"""What the lab uses of Lightning's inside: all of it is here, and
tests/training/test_lightning_inside.py says so.

Lightning promises to keep none of this. Each function says why it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.metadata import entry_points
from traceback import walk_tb
from typing import Any

import lightning as L
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import ParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.connectors import callback_connector
from lightning.pytorch.utilities.model_helpers import is_overridden

from lmlab.errors import LabError, first_line

# The hooks that Lightning calls within a step of manual optimisation.
AROUND_A_STEP = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
# Those of a callback that it calls once for each batch of training, or within it.
AROUND_A_BATCH = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    *AROUND_A_STEP,
)
CALLBACKS = "lightning.pytorch.callbacks."


@contextmanager
def packages_asked_once() -> Iterator[None]:
    """Within, a Trainer knows of callbacks that installed packages bring.

    It would read what each package says of itself, for each Trainer: 7 ms, a bigram's twenty steps.
    """
    theirs = callback_connector._load_external_callbacks
    callback_connector._load_external_callbacks = _callbacks_of_packages
    try:
        yield
    finally:
        callback_connector._load_external_callbacks = theirs


def _callbacks_of_packages(group: str) -> list[L.Callback]:
    made = [make() for make in _makers(group)]
    return [one for some in made for one in (some if isinstance(some, list) else [some])]


@cache
def _makers(group: str) -> list[Callable[[], L.Callback | list[L.Callback]]]:
    return [point.load() for point in entry_points(group=group)]


def sees_batches(callback: type) -> bool:
    """Whether a callback has one of the hooks around a batch."""
    return _has_any(callback, L.Callback, AROUND_A_BATCH)


def scales_gradients(trainer: L.Trainer) -> bool:
    """Whether there is a gradient scaler (16-mixed). Only the plugin of that precision has one, and
    it is no Lightning plugin's promise."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def nobody_between(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether Lightning's way around `backward` and `step` would be a detour.

    It leads by other strategies, a gradient scaler, and hooks. With one device, no scaler and no
    hook to call, it costs as much as all the rest of a small model's step.
    """
    callbacks: Iterable[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and not scales_gradients(trainer)
        and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
        and not _has_any(module, L.LightningModule, AROUND_A_STEP)
        and not any(_has_any(callback, L.Callback, AROUND_A_STEP) for callback in callbacks)
    )


def _has_any(one: Any, parent: type, hooks: Iterable[str]) -> bool:
    return any(is_overridden(hook, one, parent) for hook in hooks)


def count_steps(trainer: L.Trainer, n: int) -> None:
    """Count steps that Lightning did not see. Its global_step is this count, and nothing public
    sets it."""
    total = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
    total.ready += n
    total.completed += n


def begin_at(trainer: L.Trainer, checkpoint: dict[str, Any], n_batches: int) -> None:
    """Begin Lightning's loops anew, with their counts set to where a checkpoint is.

    It would pick them up in mid-epoch, where it counts rounds; what counts here are steps.
    """
    checkpoint.pop("loops", None)
    loop = trainer.fit_loop.epoch_loop
    total = loop.manual_optimization.optim_step_progress.total
    total.increment_by(checkpoint["global_step"])
    loop.batch_progress.total.increment_by(n_batches)


def gradients_shared(trainer: L.Trainer, last: bool) -> AbstractContextManager[None]:
    """Several processes average their gradients once a step, with its last micro-batch; of manual
    optimisation Lightning leaves that to its user."""
    strategy = trainer.strategy
    if last or not isinstance(strategy, ParallelStrategy):
        return nullcontext()
    return strategy.block_backward_sync()


@contextmanager
def refusals_of_callbacks(callbacks: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """What one of Lightning's callbacks finds wrong with its settings, once training has begun.

    They raise whatever they like, so the traceback has to say who it was. `callbacks` are nodes.

    Raises:
        LabError: naming the callback.
    """
    try:
        yield
    except (LabError, OSError):
        raise
    except Exception as error:
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        modules = [str(frame.f_globals.get("__name__")) for frame in frames]
        ours = max(i for i, name in enumerate(modules) if name.startswith("lmlab."))
        theirs = [i for i, name in enumerate(modules) if name.startswith(CALLBACKS)]
        if not theirs or theirs[-1] < ours:
            raise
        kind = type(frames[theirs[-1]].f_locals.get("self")).__name__
        nodes = callbacks.items()
        keys = [name for name, node in nodes if node["_target_"].rpartition(".")[2] == kind]
        key = ".".join(["callbacks", *keys[:1]])
        raise LabError(f"{key}: {kind}: {first_line(error)}") from error
