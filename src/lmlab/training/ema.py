"""An exponential moving average of the weights, evaluated beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lmlab.bounds import BelowOne
from lmlab.data.evals import EvalBatch
from lmlab.data.streams import default_states, set_default_states
from lmlab.runs.checkpoint import EMA_KEY


class EMA(L.Callback):
    """Keeps average = decay * average + (1 - decay) * weights after every optimizer step, from the
    initial weights on (Polyak & Juditsky 1992, with weights that fall off).

    Training goes on as without it. Every evaluation gives the averaged weights the same windows, as
    `val/loss_ema` and `val/loss_full_ema`. Checkpoints hold them: see `load`. Parameters are
    averaged, in float32 or better; buffers are not.
    """

    def __init__(self, decay: BelowOne = 0.999, warmup: bool = True):
        """`warmup` lets the beginning be forgotten soon: the decay of step t is at most
        (1 + t) / (10 + t)."""
        self.decay, self.warmup = decay, warmup
        self.step = 0  # how many steps it has seen
        self.average: dict[str, Tensor] = {}
        self._parameters: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        if not self.average:
            self._begin(module.model, dict(module.model.named_parameters()))
        self._parameters = [*module.model.parameters()]
        # A batch of Lightning's may hold many steps, and its hooks do not see them.
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._after_step)

    def _begin(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self.average = {
            name: weights[name].detach().to(p.device, sum_dtype(p), copy=True)
            for name, p in model.named_parameters()
        }

    def _after_step(self, *_: Any) -> None:
        self.step += 1
        at_most = (1 + self.step) / (10 + self.step) if self.warmup else 1.0
        averages = [*self.average.values()]
        weights = [p.detach().to(a.dtype) for a, p in zip(averages, self._parameters, strict=True)]
        get_ema_multi_avg_fn(min(self.decay, at_most))(averages, weights, self.step)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within, the model has the averaged weights. What is drawn there is drawn again after."""
        parameters = dict(model.named_parameters())
        weights, states = {name: p.data for name, p in parameters.items()}, default_states()
        try:
            for name, p in parameters.items():
                p.data = self.average[name].to(p.dtype)
            yield
        finally:
            for name, p in parameters.items():
                p.data = weights[name]
            set_default_states(states)

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: list[EvalBatch], *_: Any
    ) -> None:
        of_val = [
            part._replace(metric=f"{part.metric}_{EMA_KEY}")
            for part in batch
            if part.metric.startswith("val/")
        ]
        if self.average and of_val:
            with self.applied(module.model):
                trainer.strategy.validation_step(of_val, 0)  # it sees to precision

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if self.average:
            checkpoint[EMA_KEY] = {"step": self.step, "weights": self.average}

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if checkpoint.get(EMA_KEY) is not None:
            self.step = checkpoint[EMA_KEY]["step"]
            self._begin(module.model, checkpoint[EMA_KEY]["weights"])


def sum_dtype(parameter: Tensor) -> torch.dtype:
    """In bfloat16 a small step of an average would be rounded away."""
    return torch.promote_types(parameter.dtype, torch.float32)
