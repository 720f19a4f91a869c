"""Ending a trial of an Optuna study early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L

from lmlab import build
from lmlab.training.callbacks import agreed
from lmlab.training.stopping import Pruned

if TYPE_CHECKING:
    from lmlab.sweeps.study import TrialInTraining


class Pruning(L.Callback):
    """Reports val/loss to the trial at every evaluation, and ends training on its pruner's word.

    The word is asked for before the step that follows the evaluation: everything is kept by then,
    and an evaluation with no step to follow leaves nothing to save.
    """

    def __init__(self, where: dict[str, Any]):
        """`where` is `sweep.trial` of the config."""
        self.where = where
        self.trial: TrialInTraining | None = None  # in the one process that reports
        self.due = False

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            from optuna.pruners import BasePruner

            from lmlab.sweeps.study import TrialInTraining

            pruner = build.part(self.where["pruner"], "sweep.trial.pruner", BasePruner)
            self.trial = TrialInTraining(self.where["study"], self.where["number"], pruner)
        # A run that was stopped between its report and the pruner's word asks for it now.
        mine = self.trial is not None and trainer.global_step in self.trial.steps
        self.due = agreed(trainer, mine)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.state.fn != "fit":
            return
        if self.trial is not None:
            self.trial.report(module.metrics["val/loss"], trainer.global_step)
        self.due = True

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if not self.due:
            return
        self.due = False
        if agreed(trainer, self.trial is not None and self.trial.is_hopeless()):
            pruner = self.where["pruner"]["_target_"].rpartition(".")[2]
            raise Pruned(
                trainer.global_step, f"worse than other trials were by then, says {pruner}"
            )
