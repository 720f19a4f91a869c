"""Ending a trial of an Optuna study early."""

from __future__ import annotations

from typing import Any

import lightning as L
from optuna.pruners import BasePruner

from lmlab.config import build
from lmlab.sweeps.search.study import TrialInTraining
from lmlab.training.callbacks import agreed
from lmlab.training.processes.stopping import Pruned


class Pruning(L.Callback):
    """Reports val/loss to the trial at every evaluation, and ends training if its pruner says so.

    The pruner is asked before the step that follows the evaluation: everything is kept by then, and
    after the last evaluation no step is left to save.
    """

    def __init__(self, study: str, number: int, pruner: dict[str, Any]):
        """`study` is the file that the study is kept in, `number` the trial's; `pruner` is the
        config of an Optuna pruner."""
        self.study, self.number, self.pruner = study, number, pruner
        self.trial: TrialInTraining | None = None  # in the one process that reports
        self.due = False

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            pruner = build.part(self.pruner, "sweep.trial.pruner", BasePruner)
            self.trial = TrialInTraining(self.study, self.number, pruner)
        # A run that was stopped between its report and the pruner's answer asks now.
        mine = self.trial is not None and trainer.global_step in self.trial.steps
        self.due = agreed(trainer, mine)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self.trial is not None:
            self.trial.report(module.metrics["val/loss"], trainer.global_step)
        self.due = True

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if not self.due:
            return
        self.due = False
        if agreed(trainer, self.trial is not None and self.trial.is_hopeless()):
            pruner = self.pruner["_target_"].rpartition(".")[2]
            raise Pruned(
                trainer.global_step, f"worse than other trials were by then, says {pruner}"
            )
