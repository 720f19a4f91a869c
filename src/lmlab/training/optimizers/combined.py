"""Several optimizers that step as one."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch.optim import Optimizer


class CombinedOptimizer(Optimizer):
    """Optimizers of different parameters that step as one.

    Its parameter groups are theirs, one after the other, and its state holds all of theirs: rates
    that are set here, and states that are loaded here, are theirs as well. Its hooks are called
    once a step. It leaves gradients that were scaled to the scaler, even where one of its
    optimizers (a fused one) could do without, so all are unscaled before they are clipped.
    """

    def __init__(self, optimizers: dict[str, Optimizer]):
        """`optimizers` by the name of their rule."""
        super().__init__([group for o in optimizers.values() for group in o.param_groups], {})
        for optimizer in optimizers.values():
            self.state.update(optimizer.state)
        self.optimizers = optimizers
        self._hand_out()

    def _hand_out(self) -> None:
        """Let each have its groups, and all have the one state: they look into it by parameter."""
        groups = iter(self.param_groups)
        for optimizer in self.optimizers.values():
            own = list(islice(groups, len(optimizer.param_groups)))
            optimizer.__setstate__({"state": self.state, "param_groups": own})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After loading, too: there torch puts new groups and a new state in place."""
        super().__setstate__(state)
        self._hand_out()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once it is built: nothing says which of its optimizers would step a new group."""
        if "optimizers" in self.__dict__:
            raise NotImplementedError(
                "parameters are matched to optimizer.rules before the first step"
            )
        super().add_param_group(param_group)

    def step(self, closure: Any = None) -> Any:
        """One step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return loss
