"""A look at the first steps of training: do they change anything at all?"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from lmlab.errors import LabError

ENOUGH = 100  # steps at a rate above 0; as many as a warm-up usually takes


class FirstSteps:
    """Watches the trained weights until one of them changes, which is after one step as a rule.

    It keeps a digest of each weight, not a copy, and takes no memory.
    """

    def __init__(self, model: nn.Module):
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._digests = [_digest(p) for p in self._parameters]
        self._steps, self._highest_rate = 0, 0.0

    def changed(self, rate: float, is_last: bool) -> bool:
        """Whether a weight has changed by now. Asked after each step, with its learning rate, while
        the gradients are still there.

        Raises:
            LabError: if none has after ENOUGH steps, or after the last one of a shorter run. Steps
                at a rate of 0 do not count.
        """
        if rate > 0:
            self._steps += 1
            self._highest_rate = max(self._highest_rate, rate)
            # In order, so that as a rule the first one that is looked at is another than before.
            pairs = zip(self._parameters, self._digests, strict=True)
            if any(_digest(p) != before for p, before in pairs):
                return True
        if self._steps >= ENOUGH or (is_last and self._steps):
            raise LabError(self._refusal())
        return False

    def _refusal(self) -> str:
        n_weights = sum(p.numel() for p in self._parameters)
        steps = f"{self._steps} step{'s' * (self._steps > 1)}"
        refusal = (
            f"nothing is trained: none of the model's {n_weights:,} weights has changed in {steps} "
            f"at a learning rate of up to {self._highest_rate:.3g}"
        )
        if not any(p.grad is not None and p.grad.any() for p in self._parameters):
            return f"{refusal}, for their gradients are 0: the loss does not depend on them"
        kinds = sorted({str(p.dtype).removeprefix("torch.") for p in self._parameters})
        refusal += (
            f"; a step so small is rounded away in {' and '.join(kinds)}: try a larger optimizer.lr"
        )
        if {"bfloat16", "float16"} & {*kinds}:
            refusal += ", or trainer.precision=bf16-mixed or 32-true"
        return refusal


def _digest(p: Tensor) -> bytes:
    """A digest of every bit of a tensor."""
    content = p.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(content.numpy().data).digest()
