"""Histograms of weights, gradients and updates: what an optimizer step does to each layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lmlab.bounds import CountOrZero
from lmlab.display.loggers import event_files


class Histograms(L.Callback):
    """Logs for each parameter at the step before an evaluation: its weights after the step, the
    gradient that the optimizer was given (clipped, if it is), the update that it made of it, and as
    a curve the ratio of their sizes, |update| / |weights|. About 1e-3 is healthy; far below, a
    layer hardly learns; far above, it is thrown about.

    They come from hooks on the optimizer, so that training itself has no part in this.
    """

    def __init__(self, every: CountOrZero = 0):
        """At each `every`-th evaluation; 0: never."""
        self.every = every
        self._step = 0
        self._before: dict[str, Tensor] = {}
        self._tensors: dict[str, Tensor] = {}  # by tag

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        if not self.every or not trainer.is_global_zero or not event_files(trainer.loggers):
            return
        between = self.every * trainer.datamodule.eval_every  # type: ignore[attr-defined]
        optimizer = trainer.optimizers[0]

        def before(*_: Any) -> None:
            self._step += 1
            if self._step % between == 0:
                self._before = {name: p.detach().clone() for name, p in _trained(module.model)}
                self._tensors = {
                    f"weights_gradient/{name}": p.grad.detach().clone()
                    for name, p in _trained(module.model)
                    if p.grad is not None
                }

        def after(*_: Any) -> None:
            for name, p in _trained(module.model) if self._before else ():
                self._tensors[f"weights/{name}"] = p.detach().clone()
                self._tensors[f"weights_update/{name}"] = p.detach() - self._before[name]
            self._before = {}

        self._step = trainer.global_step
        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        for logger in event_files(trainer.loggers) if self._tensors else ():
            for tag, values in self._tensors.items():
                logger.experiment.add_histogram(tag, values.float(), trainer.global_step, bins=64)
            for name, ratio in self._ratios():
                logger.log_metrics({f"weights_update_ratio/{name}": ratio}, trainer.global_step)
        self._tensors = {}

    def _ratios(self) -> Iterator[tuple[str, float]]:
        for tag, update in self._tensors.items():
            family, name = tag.split("/", 1)
            if family == "weights_update":
                weights = self._tensors[f"weights/{name}"]
                yield name, (update.norm() / weights.norm().clamp(min=1e-12)).item()


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
