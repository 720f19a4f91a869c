"""Averages of the weights at the ends of cycles, in place of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.optim.swa_utils import get_swa_multi_avg_fn

from lmlab.bounds import Count, Fraction
from lmlab.runs.checkpoint import SWA_KEY, TRAINED_KEY
from lmlab.training.ema import sum_dtype
from lmlab.training.many_passes.by_step import ByStep
from lmlab.training.optimizers.schedules import ends_of_cycles


class SWA(ByStep):
    """Stochastic weight averaging: the mean of the weights at some steps, all alike (Izmailov et
    al. 2018, arXiv 1803.05407).

    From the first of these steps on the averages are the run's weights: they are evaluated, sampled
    from and kept in checkpoints, and stand there at the end. Training goes on by weights of its
    own, which a checkpoint holds besides. Parameters are averaged, in float32 or better; buffers
    are not.
    """

    def __init__(self, start: Fraction = 0.5, every: Count | None = None):
        """What is averaged are the weights after `every` steps, counted from `start`, a share of
        all; None: at those ends of the schedule's cycles that come after it."""
        self.start, self.every = start, every
        self.n_averaged = 0
        self.average: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}  # while the model has the averages

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        super().on_train_start(trainer, module)
        self._parameters: dict[str, nn.Parameter] = dict(module.model.named_parameters())
        start = self.start * self.max_steps
        if self.every is None:
            ends = ends_of_cycles(module.schedule, self.max_steps)
            self._steps = {end for end in ends if end >= start}
        else:
            self._steps = {*range(self.max_steps, max(0, int(start) - 1), -self.every)}

    def after(self, step: int) -> None:
        if step not in self._steps:
            return
        weights = {name: _to_sum(p) for name, p in self._parameters.items()}
        if not self.average:
            self.average = {name: weight.clone() for name, weight in weights.items()}
        else:
            averages = [self.average[name] for name in weights]
            get_swa_multi_avg_fn()(averages, [*weights.values()], self.n_averaged)
        self.n_averaged += 1

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *more: Any) -> None:
        super().on_train_batch_start(trainer, module, *more)
        for name, weight in self._trained.items():
            self._parameters[name].data = weight
        self._trained = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        # Before a checkpoint is written, and before an evaluation.
        if self.average:
            self._trained = {name: p.data for name, p in self._parameters.items()}
            for name, p in self._parameters.items():
                p.data = self.average[name].to(p.dtype, copy=True)

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if self.average:
            checkpoint[SWA_KEY] = {"step": self.n_averaged, "weights": self.average}
            checkpoint[TRAINED_KEY] = {"step": trainer.global_step, "weights": self._trained}

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if checkpoint.get(SWA_KEY) is None or checkpoint.get(TRAINED_KEY) is None:
            return
        model = module.model
        self.n_averaged = checkpoint[SWA_KEY]["step"]
        self.average = {
            name: _to_sum(p, checkpoint[SWA_KEY]["weights"][name]).clone()
            for name, p in model.named_parameters()
        }
        self._trained = _like(model, checkpoint[TRAINED_KEY]["weights"])


def _to_sum(p: nn.Parameter, weight: Tensor | None = None) -> Tensor:
    """A weight (None: the parameter's own) on the parameter's device, as it is summed: in bfloat16
    a small step of an average would be rounded away."""
    return (p if weight is None else weight).detach().to(p.device, sum_dtype(p))


def _like(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: weights[name].detach().to(p.device, p.dtype, copy=True)
        for name, p in model.named_parameters()
    }
