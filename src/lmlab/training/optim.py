"""Parameter groups, and learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lmlab.bounds import CountOrZero, Fraction

MakeOptimizer = Callable[..., Optimizer]  # a torch.optim class with everything but its parameters
Schedule = Callable[[int, int], float]  # (step, max_steps) -> factor on the learning rate


def configure(model: nn.Module, make: MakeOptimizer) -> Optimizer:
    """An optimizer over the model's parameters that lets weight decay touch matrices only.

    Biases and the gains of norms are left alone: pulling them to zero regularises nothing.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return make([group for group in groups if group["params"]])


def constant(step: int, max_steps: int, warmup_steps: CountOrZero = 0) -> float:
    """Full rate from the first step, or after a straight warm-up."""
    return _warmup(step, warmup_steps)


def cosine(
    step: int, max_steps: int, warmup_steps: CountOrZero = 0, final: Fraction = 0.0
) -> float:
    """Warm-up, then half a cosine that ends at `final` (Loshchilov & Hutter 2017).

    As in nanoGPT, `final` would be the rate of the step after the last: no step is taken at 0.
    """
    if step < warmup_steps:
        return _warmup(step, warmup_steps)
    done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def linear(
    step: int,
    max_steps: int,
    warmup_steps: CountOrZero = 0,
    warmdown: Fraction = 0.5,
    final: Fraction = 0.0,
) -> float:
    """Warm-up, a plateau, and a straight line to `final` over the last `warmdown` of all steps.

    `final` would be the rate of the step after the last: no step is taken at 0. With `warmdown` 0
    the plateau lasts to the end.
    """
    steps_down = warmdown * max_steps
    left = min(max((max_steps - step) / steps_down, 0.0), 1.0) if steps_down else 1.0
    return min(_warmup(step, warmup_steps), final + (1 - final) * left)


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))
