"""Dynamic evaluation: the loss of a model that goes on learning from the text it is asked about."""

from __future__ import annotations

import copy
import signal
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

from lmlab.bounds import Count, Positive
from lmlab.console import count_progress
from lmlab.data.datamodule import FullEval
from lmlab.data.windows import full_pass, shift
from lmlab.errors import LabError
from lmlab.training.processes.stopping import Interrupted

METRIC = "val/loss_dynamic"


class Dynamic(L.Callback):
    """`val/loss_dynamic`, behind the full pass over val (Krause et al. 2018, arXiv 1709.07432).

    val is read in its order, `stride` tokens at a time (None: as the full pass). Each piece is
    predicted first, and then a step of gradient descent is taken on it, in float32 or as the
    weights are, without dropout. So every token but the first is predicted once, by a model that
    has learned from those before it and from none behind. It is a copy that learns: the weights of
    the run stay as they are.

    The figure is no property of one set of weights. It says how much a model gains by the text
    itself, its names and its habits, and is to be compared with other figures of this kind alone.
    """

    def __init__(self, lr: Positive, stride: Count | None = None, clip_norm: Positive = 1.0):
        """The step is `lr` times the gradient of the piece's mean loss, whose norm is clipped."""
        self.lr, self.stride, self.clip_norm = lr, stride, clip_norm

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Refuse at the start what would fail at the end."""
        data: Any = getattr(trainer, "datamodule", None)
        if data is not None and not data.n_full:
            raise LabError("callbacks.dynamic comes behind the full pass over val: eval.full=false")
        if not any(p.requires_grad for p in module.model.parameters()):
            name = type(module.model).__name__
            raise LabError(f"callbacks.dynamic: {name} has nothing that learns")
        if self.stride is not None and self.stride > module.model.block_size:
            raise LabError(
                f"callbacks.dynamic.stride={self.stride} skips tokens: at most "
                f"{module.model.block_size}, the run's data.block_size"
            )

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        full = getattr(trainer.val_dataloaders, "evals", None)
        if not isinstance(full, FullEval) or full.metric != "val/loss_full":
            return  # not the end
        if not trainer.is_global_zero:
            return
        # Lightning evaluates in a mode in which no gradient can be taken.
        with torch.inference_mode(False), torch.enable_grad():
            loss = self._loss(module, full)
        module.metrics[METRIC] = loss
        module.write({METRIC: loss}, module.global_step)

    def _loss(self, module: Any, full: FullEval) -> float:
        """Nats per token."""
        stride = self.stride or full.stride
        model = copy.deepcopy(module.model).eval()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=self.lr)
        total, n_tokens = 0.0, len(full.tokens) - 1
        pieces = full_pass(full.tokens.to(module.device), full.block_size, stride, batch_size=1)
        with count_progress("dynamic evaluation", n_tokens, "tokens") as advance:
            for windows, counted in pieces:
                if module.stop and module.trainer.world_size == 1:
                    raise Interrupted(module.stop.signum or signal.SIGTERM, module.global_step)
                n = int(counted)
                idx, targets = shift(windows)
                logits = model(idx)[0, -n:]
                loss = F.cross_entropy(logits.float(), targets[0, -n:])
                total += loss.item() * n
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, self.clip_norm)
                optimizer.step()
                advance(n)
        return total / n_tokens
