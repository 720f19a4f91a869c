"""Dynamic evaluation behind the full pass of a run."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

import lightning as L
import torch

from lmlab.bounds import Count, Positive
from lmlab.data.evals import FULL, FullEval
from lmlab.errors import LabError
from lmlab.training.evaluating.dynamic_loss import CLIP_NORM, METRIC, check_learns, dynamic_loss
from lmlab.training.processes.stopping import Interrupted


class Dynamic(L.Callback):
    """`val/loss_dynamic`, behind the full pass over val: see `dynamic_loss`.

    The weights of the run stay as they are. The figure is no property of one set of weights. It
    says how much a model gains by the text itself, its names and its habits, and is to be compared
    with other figures of this kind alone.
    """

    def __init__(self, lr: Positive, stride: Count | None = None, clip_norm: Positive = CLIP_NORM):
        """`stride` tokens are read at a time (None: as in the full pass)."""
        self.lr, self.stride, self.clip_norm = lr, stride, clip_norm

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Refuse at the start what would fail at the end."""
        data: Any = getattr(trainer, "datamodule", None)
        if data is not None and not data.n_full:
            raise LabError("callbacks.dynamic comes behind the full pass over val: eval.full=false")
        check_learns(module.model, "callbacks.dynamic")
        if self.stride is not None and self.stride > module.model.block_size:
            raise LabError(
                f"callbacks.dynamic.stride={self.stride} skips tokens: at most "
                f"{module.model.block_size}, the run's data.block_size"
            )

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        full = getattr(trainer.val_dataloaders, "evals", None)
        if not isinstance(full, FullEval) or full.metric != FULL:
            return  # not the end
        if not trainer.is_global_zero:
            return

        def between() -> None:
            if module.stop and trainer.world_size == 1:
                raise Interrupted(module.stop.signum or signal.SIGTERM, module.global_step)

        full = replace(full, stride=self.stride or full.stride)
        # Lightning evaluates in a mode in which no gradient can be taken.
        with torch.inference_mode(False), torch.enable_grad():
            loss = dynamic_loss(module.model, full, module.device, self.lr, self.clip_norm, between)
        module.metrics[METRIC] = loss
        module.write({METRIC: loss}, module.global_step)
