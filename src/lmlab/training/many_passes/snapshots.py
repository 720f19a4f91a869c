"""The weights at the ends of cycles, kept apart: one run's models, to be asked together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from lmlab.runs.checkpoint import write_checkpoint
from lmlab.runs.directory import RunDirectory
from lmlab.training.many_passes.by_step import ByStep
from lmlab.training.optimizers.schedules import ends_of_cycles


class Snapshots(ByStep):
    """Keeps the weights of a run at the end of each cycle of its schedule (Huang et al. 2017, arXiv
    1704.00109): `ensemble=snapshots` evaluates them together, and `teacher.runs=<run>@snapshots`
    learns from them.

    No later checkpoint displaces them. Training does not go on from them: they are weights alone.
    """

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        super().on_train_start(trainer, module)
        self._model, self._taken = module.model, dict[int, dict[str, Tensor]]()
        self._ends = set(ends_of_cycles(module.schedule, self.max_steps))

    def after(self, step: int) -> None:
        if step in self._ends:
            weights = self._model.state_dict()
            self._taken[step] = {f"model.{name}": w.cpu().clone() for name, w in weights.items()}

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        # Before the run's own checkpoint, which may be gone on from.
        taken, self._taken = self._taken, {}
        if trainer.is_global_zero:
            run = RunDirectory(Path(trainer.default_root_dir))
            for step, weights in taken.items():
                contents = {"state_dict": weights, "global_step": step, **module.about}
                write_checkpoint(contents, run.snapshot(step))
