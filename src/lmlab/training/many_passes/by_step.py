"""What changes from step to step beside the learning rate: weight decay, dropout, window length."""

from __future__ import annotations

from typing import Annotated, Any

import lightning as L
import numpy as np
from pydantic import Field
from torch import Tensor, nn

from lmlab.bounds import Count, Fraction, NotNegative
from lmlab.errors import LabError

Shares = Annotated[list[Fraction], Field(min_length=1)]
Factors = Annotated[list[NotNegative], Field(min_length=1)]


class ByStep(L.Callback):
    """Is told of every optimizer step, of which a batch of Lightning's may hold many.

    It follows from the number of steps alone, so a run that goes on computes what it would have.
    """

    step = 0  # how many steps have been taken

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._stepped)
        self.optimizer, self.max_steps = trainer.optimizers[0], trainer.max_steps

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self.step = trainer.global_step
        self.before(self.step)

    def _stepped(self, *_: Any) -> None:
        self.step += 1
        self.after(self.step)
        if self.step < self.max_steps:
            self.before(self.step)

    def before(self, step: int) -> None:
        """Before the forward pass of the next step, when `step` have been taken."""

    def after(self, step: int) -> None:
        """When `step` have been taken."""


class Through:
    """Straight lines through points: at a share of all steps, a factor."""

    def __init__(self, shares: list[float], factors: list[float], key: str):
        if len(shares) != len(factors) or sorted(set(shares)) != shares:
            raise LabError(
                f"{key}.shares={shares}: give as many as factors={factors}, each larger than the "
                "one before"
            )
        self.shares, self.factors = shares, factors

    def __call__(self, step: int, max_steps: int) -> float:
        return float(np.interp(step / max_steps, self.shares, self.factors))


class DecaySchedule(ByStep):
    """Weight decay by step: of every parameter group its own times a factor, whatever the rule.

    Over many passes, much decay at first, little in the middle and much again at the end is better
    than any one (slowrun, 2026). AdamW and Muon multiply it by the learning rate besides.
    """

    def __init__(self, shares: Shares, factors: Factors):
        """`factors` at `shares` of all steps, and on straight lines between."""
        self.factor = Through(shares, factors, "callbacks.decay")

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if stage != "fit":
            return
        # A state that is loaded has the decays of its own step.
        groups = module.fresh_optimizer().param_groups
        self._decays = [group.get("weight_decay", 0.0) for group in groups]
        if not any(self._decays):
            raise LabError(
                "callbacks.decay: there is no weight decay to change; give optimizer.weight_decay, "
                "or that of a rule"
            )

    def before(self, step: int) -> None:
        factor = self.factor(step, self.max_steps)
        for group, decay in zip(self.optimizer.param_groups, self._decays, strict=True):
            if decay:
                group["weight_decay"] = decay * factor


class DropoutSchedule(ByStep):
    """Dropout by step: each rate of the model, that of attention too, times a factor.

    A network that has read its text once has nothing to forget yet: dropout may begin at nothing
    and rise (early and late dropout: Liu et al. 2023, arXiv 2303.01500).
    """

    def __init__(self, shares: Shares, factors: Annotated[list[Fraction], Field(min_length=1)]):
        """`factors` at `shares` of all steps, and on straight lines between."""
        self.factor = Through(shares, factors, "callbacks.dropout")

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if stage != "fit":
            return
        rates = [(part, name, getattr(part, name)) for part, name in _dropouts(module.model)]
        self._rates = [(part, name, rate) for part, name, rate in rates if rate]
        if not self._rates:
            raise LabError("callbacks.dropout: the model drops nothing; give model.dropout")
        if module.config is not None and module.config.trainer.compile:
            raise LabError(
                "callbacks.dropout: each rate would be compiled anew; give trainer.compile=false"
            )

    def before(self, step: int) -> None:
        factor = self.factor(step, self.max_steps)
        for part, name, rate in self._rates:
            setattr(part, name, rate * factor)


def _dropouts(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The modules that drop, and what their rate is called there: that of a layer of dropout p,
    and of attention, which drops within torch's own function, dropout."""
    return [
        (part, name)
        for part in model.modules()
        for name in ("p", "dropout")
        if isinstance(getattr(part, name, None), float)
    ]


class GrowingWindows(ByStep):
    """Short windows first: in training each window is cut into pieces, fewer and fewer of them, and
    the model reads each piece as if nothing came before (in a curriculum of lengths: Li et al.
    2021, arXiv 2108.06084).

    A step has the same tokens in the same order whatever the length, only shorter contexts, and is
    cheaper where attention is dear. Evaluation, and teachers, read whole windows.
    """

    def __init__(self, pieces: Annotated[list[Count], Field(min_length=1)]):
        """How many a window is cut into, each for an equal share of all steps."""
        self.pieces = pieces
        self._now = 1
        self._hooks: list[Any] = []

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        block_size = module.trainer.datamodule.block_size
        for n in self.pieces:
            if block_size % n:
                raise LabError(
                    f"callbacks.windows.pieces={self.pieces}: data.block_size={block_size} is not "
                    f"divisible by {n}"
                )

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        super().on_train_start(trainer, module)
        self._hooks = [
            module.model.register_forward_pre_hook(self._cut),
            module.model.register_forward_hook(self._join),
        ]

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def before(self, step: int) -> None:
        self._now = self.pieces[step * len(self.pieces) // self.max_steps]

    def _cut(self, model: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """idx (B, T) -> (B * n, T / n)."""
        (idx,) = args
        return (idx.reshape(len(idx) * self._now, -1) if model.training else idx,)

    def _join(self, model: nn.Module, args: tuple[Tensor], logits: Tensor) -> Tensor:
        """logits (B * n, T / n, vocab_size) -> (B, T, vocab_size)."""
        n = self._now if model.training else 1
        return logits.reshape(len(logits) // n, -1, logits.shape[-1])
