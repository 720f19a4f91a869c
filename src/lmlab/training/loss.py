"""What a step of training descends. A loss is a part of a config, as a model is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.training.costs.flops import forward_flops_per_token

if TYPE_CHECKING:
    from lmlab.data.datamodule import TextDataModule

Model = Callable[[Tensor], Tensor]  # idx (B, T) -> logits (B, T, vocab_size)


class Loss(ABC):
    """What training descends, batch by batch. Evaluations are the cross-entropy, whatever it is."""

    @abstractmethod
    def __call__(
        self, model: Model, idx: Tensor, targets: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """A scalar with a gradient, of idx and targets (B, T).

        Where windows are filled up (data.order=documents), targets of -100 do not count: torch's
        cross-entropy leaves them out.

        It stands in `train/loss`, too. Where something else is to stand there, that is the second
        of two: such as the text's own share, in nats per token, of a loss that has others.
        """

    def to(self, device: torch.device) -> None:  # noqa: B027 - most have nothing to bring
        """Bring what else it computes with to the device, before the first step."""

    def learned_beside(self, model: nn.Module) -> nn.Module | None:
        """What is trained with a model and is no part of it; called once, before anything else.

        Its parameters go to the optimizer itself, whatever its rules, and into checkpoints.
        """
        return None

    def flops_per_token(self, data: TextDataModule) -> float | None:
        """Operations besides forward and backward of the model, for each token that is learned;
        None: nobody knows."""
        return 0.0


class CrossEntropy(Loss):
    """The mean of -log p(target), in nats per token."""

    def __call__(self, model: Model, idx: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(idx).flatten(0, 1).float(), targets.flatten())


class Distillation(Loss):
    """A loss, and beside it what other models say of the text: their probabilities, averaged, are
    learned as soft targets (Hinton et al. 2015, arXiv 1503.02531).

    A text says one token of each place; a teacher says how likely each was. A network that learns
    from some of its own kind becomes better than they are (Furlanello et al. 2018, arXiv
    1805.04770). It is no module, so that nothing of a teacher is trained or kept in checkpoints.
    """

    def __init__(self, loss: Loss, teachers: Sequence[nn.Module], share: float):
        """`share` is the teachers' part of what is descended, from 0 to 1; the rest is `loss`."""
        self.loss, self.share = loss, share
        self.teachers = [model.eval() for model in teachers]

    def learned_beside(self, model: nn.Module) -> nn.Module | None:
        return self.loss.learned_beside(model)

    def to(self, device: torch.device) -> None:
        self.loss.to(device)
        for model in self.teachers:
            model.to(device)

    def flops_per_token(self, data: TextDataModule) -> float | None:
        besides = self.loss.flops_per_token(data)
        asking = forward_flops_per_token(self.teachers, data.batch_size, data.block_size)
        return None if besides is None or asking is None else besides + asking

    def __call__(self, model: Model, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(idx)
        loss, shown = both(self.loss(lambda _: logits, idx, targets))
        with torch.no_grad():
            probs = [teacher(idx).float().softmax(-1) for teacher in self.teachers]
            target = torch.stack(probs).mean(0)
        taught = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(0, 1))
        return torch.lerp(loss, taught, self.share), shown


def both(loss: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of what a loss returns: what is descended, and what is shown."""
    return loss if isinstance(loss, tuple) else (loss, loss)
