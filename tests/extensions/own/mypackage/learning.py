"""An optimizer and a schedule."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class SignDescent(Optimizer):
    """Every weight goes the same way each step, up or down."""

    def __init__(self, params: Any, lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


def stairs(step: int, max_steps: int, every: int) -> float:
    return 0.5 ** (step // every)
