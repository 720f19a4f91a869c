"""What is shown and written down while training."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmlab.config.stored import metrics_by_todays_names
from lmlab.console import current_console, say
from lmlab.data.datamodule import TextDataModule
from lmlab.errors import DivergedError
from lmlab.files import link_or_copy, remove
from lmlab.runs.checkpoint import read_checkpoint, weights_alone, write_checkpoint
from lmlab.runs.directory import OF_THE_END, RunDirectory
from lmlab.runs.provenance import computed_on
from lmlab.runs.spent import KEY as SPENT
from lmlab.runs.spent import Spent
from lmlab.training.costs.costs import Costs
from lmlab.training.processes.stopping import Interrupted, Paused, Pruned, Stop
from lmlab.training.processes.waiting import waiting


class Recorder(L.Callback):
    """Keeps run.json up to date at every evaluation, and in each checkpoint what it took."""

    def __init__(self, run: RunDirectory):
        self.run, self.costs = run, Costs()  # until they are known
        self.metrics: dict[str, float] = {}
        self.step: int | None = None  # of the last evaluation within training

    def _spent(self, trainer: L.Trainer) -> Spent:
        return self.costs.now(trainer.global_step)

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[SPENT] = self._spent(trainer).model_dump()

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self.metrics, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.metrics = metrics_by_todays_names(state_dict["metrics"])
        self.step = state_dict["step"]
        for metric in OF_THE_END:
            self.metrics.pop(metric, None)  # it is not the end any more

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        # Not before: Lightning shares the processors out among several processes when it launches.
        if trainer.is_global_zero:
            self.run.note(**computed_on(self.run.record, trainer.strategy.root_device))

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        self.metrics |= module.metrics
        if within_training(trainer):
            self.step = trainer.global_step
        if not math.isnan(module.last_loss):
            self.metrics["train/loss_last"] = module.last_loss
        speed = self.metrics.pop("train/tokens_per_second", None)
        if trainer.is_global_zero:
            self.run.note(
                **self._spent(trainer).recorded, metrics=self.metrics, tokens_per_second=speed
            )

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        if isinstance(exception, Interrupted | Paused | Pruned) and trainer.is_global_zero:
            self.run.update(**self._spent(trainer).recorded)  # it may be between two evaluations


class Checkpoints(L.Callback):
    """Keeps the newest few checkpoints and the best one, and stops training when asked to.

    One is written after every evaluation, every `every` steps after that, and at the end of a
    Lightning batch once `minutes` have gone by since the last. All of them hold every stream of
    random numbers and the place in the data, so going on from any gives the same run.
    """

    def __init__(
        self, run: RunDirectory, stop: Stop, keep: int, every: int | None, minutes: float | None
    ):
        self.run, self.stop = run, stop
        self.keep, self.every, self.minutes = keep, every, minutes
        self.best: dict[str, float] = {}  # the lowest val/loss so far, and its step
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        step = trainer.global_step
        since_evaluation = step % module_data(trainer).eval_every
        if since_evaluation == 0:
            return  # the evaluation comes first, so that no checkpoint stands before one
        stopping, pausing = agreed(trainer, bool(self.stop)), step == self.stop.pause_at
        due = self.every is not None and since_evaluation % self.every == 0
        if self.minutes is not None:
            due |= agreed(trainer, time.monotonic() - self._saved_at >= 60 * self.minutes)
        if stopping or pausing or due:
            self.save(trainer, module)
        if stopping:
            raise Interrupted(self.stop.signum or signal.SIGTERM, step)
        if pausing:
            raise Paused(step)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if not of_training(trainer, module):
            return
        loss = module.metrics["val/loss"]
        is_best = loss < self.best.get("val/loss", math.inf)
        if is_best:
            self.best = {"val/loss": loss, "step": trainer.global_step}
        # A run that goes on does the evaluation of the end again, from where it stood before.
        if within_training(trainer) or is_best:
            self.save(trainer, module, is_best, is_last=within_training(trainer))
        if agreed(trainer, bool(self.stop)):
            raise Interrupted(self.stop.signum or signal.SIGTERM, trainer.global_step)
        if within_training(trainer) and trainer.global_step == self.stop.pause_at:
            raise Paused(trainer.global_step)

    def save(
        self, trainer: L.Trainer, module: Any, is_best: bool = False, is_last: bool = True
    ) -> None:
        """Write a checkpoint of this step, as the last, the best or both; let the oldest go.

        Raises:
            DivergedError: if weights are not finite: the last good checkpoint is then left alone.
        """
        if not all(torch.isfinite(p).all() for p in module.model.parameters()):
            raise DivergedError(
                f"weights became infinite or NaN by step {trainer.global_step}, before the loss "
                f"showed it; {module.what_to_try()}"
            )
        module.read_losses()
        for logger in trainer.loggers:
            logger.save()  # the curves reach at least as far as the checkpoint
        path = self.run.step_checkpoint(trainer.global_step)
        # The best one first, for the other says that it is there; they are one file of two names.
        trainer.save_checkpoint(self.run.best if is_best else path)
        if is_best and trainer.is_global_zero:
            self.run.note(best=self.best)
            if is_last:
                link_or_copy(self.run.best, path)
        elif self.best.get("step") == trainer.global_step and trainer.is_global_zero:
            link_or_copy(path, self.run.best)  # the same weights, and how the run ended
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            self.run.forget_requeued()
            self._let_go(self.run.checkpoints()[max(self.keep, 1) :])

    def leave_weights(self) -> None:
        """Where none is to be kept: of a run that is done, the best's weights alone; the last's,
        where a model takes no steps and none is the best."""
        left = [self.run.best] if self.run.best.is_file() else self.run.checkpoints()
        if self.keep or not left:
            return
        contents = weights_alone(read_checkpoint(left[0]))
        write_checkpoint(contents, left[0])
        self._let_go([path for path in self.run.checkpoints() if path != left[0]])
        say(f"checkpoint.keep=0: the best's weights are left, of step {contents['global_step']}")

    def _let_go(self, checkpoints: Iterable[Path]) -> None:
        for path in checkpoints:
            if not path.is_dir():
                remove(path, self.run.path)


class NoteSignals(L.Callback):
    """Of several processes, each only notes a signal, until they agree on a step to stop at.

    Lightning's own handler of SIGTERM would broadcast in the middle of whatever the others do.
    """

    def __init__(self, stop: Stop):
        self.stop = stop

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.world_size > 1:
            self.stop.listen()

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        self.on_train_start(trainer, module)  # by itself, after training


class GiveWay(L.Callback):
    """Looks at each evaluation whether others need the processors."""

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        waiting.settle()


class Bar(L.Callback):
    """Loss, val loss, tokens per second and time left: a bar in a terminal, else a plain line per
    evaluation."""

    def __init__(self) -> None:
        self.console = current_console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        fields = TextColumn("{task.fields[state]}")
        # Drawn between steps: a thread of rich's own would take a processor from them.
        self.progress = Progress(
            *columns, TimeRemainingColumn(), fields, console=self.console, auto_refresh=False
        )
        self._drawn = 0.0
        self.task = self.progress.add_task("training", total=None, state="")
        self.val_loss = ""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.progress.update(self.task, total=trainer.max_steps, completed=trainer.global_step)
        if self.console.is_terminal and trainer.is_global_zero:
            self.progress.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        state = f"loss {module.last_loss:.4f}{self.val_loss} {_rate(module.tokens_per_second)}"
        now = time.monotonic()
        due = now - self._drawn > 0.25  # a person sees no more than a few changes a second
        self._drawn = now if due else self._drawn
        self.progress.update(self.task, completed=trainer.global_step, state=state, refresh=due)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.sanity_checking and trainer.is_global_zero:
            width = len(str(trainer.max_steps))
            loss = module.metrics["val/loss"]
            say(f"step {0:>{width}}/{trainer.max_steps}  val/loss {loss:.4f} before training")
        if not of_training(trainer, module):
            return
        loss = module.metrics["val/loss"]
        self.val_loss = f" val {loss:.4f}"
        if trainer.is_global_zero:
            width = len(str(trainer.max_steps))
            say(
                f"step {trainer.global_step:>{width}}/{trainer.max_steps}  "
                f"loss {module.last_loss:.4f}  val/loss {loss:.4f}  "
                f"{_rate(module.tokens_per_second)}"
            )

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        if self.progress.live.is_started:  # else it would print an empty line
            self.progress.stop()

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, module)


def of_training(trainer: L.Trainer, module: Any) -> bool:
    """Whether an evaluation shows how training goes: each one but the full pass behind the end.

    A model that takes no steps has none.
    """
    return trainer.global_step > 0 and "val/loss" in module.metrics


def within_training(trainer: L.Trainer) -> bool:
    """Whether an evaluation is one of those between steps, and not of the end."""
    return trainer.state.fn == TrainerFn.FITTING


def module_data(trainer: L.Trainer) -> TextDataModule:
    """The datamodule that a Trainer is fitting."""
    return trainer.datamodule  # type: ignore[attr-defined]


def agreed(trainer: L.Trainer, mine: bool) -> bool:
    """Whether any process says yes: all must stop, or save, at the same step."""
    if trainer.world_size == 1:
        return mine
    return trainer.strategy.reduce_boolean_decision(mine, all=False)


def _rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:,.0f} tokens/s"
