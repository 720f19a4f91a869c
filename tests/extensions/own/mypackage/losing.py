"""Losses."""

import torch.nn.functional as F
from torch import Tensor

from lmlab.bounds import BelowOne
from lmlab.training.loss import Loss, Model


class Smoothed(Loss):
    """Cross-entropy, with a share of the target for every token alike."""

    def __init__(self, share: BelowOne):
        self.share = share

    def __call__(self, model: Model, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits, y = model(idx).flatten(0, 1), targets.flatten()
        smoothed = F.cross_entropy(logits, y, label_smoothing=self.share)
        return smoothed, F.cross_entropy(logits.detach(), y)


class Each(Loss):
    """One number for each token, which is no scalar."""

    def __call__(self, model: Model, idx: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(idx).flatten(0, 1), targets.flatten(), reduction="none")
