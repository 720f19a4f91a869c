"""Distillation: learning from what other models say of the text, beside the text itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.data.datamodule import TextDataModule
from lmlab.training.costs.flops import forward_flops_per_token


class Teacher:
    """Models whose probabilities are averaged, and learned as soft targets (Hinton et al. 2015,
    arXiv 1503.02531).

    A text says one token of each place; a teacher says how likely each was. A network that learns
    from some of its own kind becomes better than they are (Furlanello et al. 2018, arXiv
    1805.04770). It is no module, so that nothing of it is trained or kept in checkpoints.
    """

    def __init__(self, models: Sequence[nn.Module], share: float):
        """`share` is the part of the loss that is the teacher's, from 0 to 1."""
        self.models, self.share = [model.eval() for model in models], share

    def to(self, device: torch.device) -> None:
        for model in self.models:
            model.to(device)

    def flops_per_token(self, data: TextDataModule) -> float | None:
        """Operations of all models for each token that is learned; None: nobody knows."""
        return forward_flops_per_token(self.models, data.batch_size, data.block_size)

    def loss(self, idx: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """(1 - share) of the text's `loss`, and the share of the cross-entropy from the teacher's
        probabilities: idx (B, T), logits (B, T, vocab_size) of the one that learns."""
        with torch.no_grad():
            probs = [model(idx).float().softmax(-1) for model in self.models]
            target = torch.stack(probs).mean(0)
        taught = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(0, 1))
        return torch.lerp(loss, taught, self.share)
