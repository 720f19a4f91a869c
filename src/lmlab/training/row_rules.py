"""Update rules for many models at once: each row of a matrix holds all weights of one model.

Each rule computes what the torch.optim class of the same name does, with its own numbers in every
row, and keeps the same state under the same names. So a row can begin from the state of a torch
optimizer, and a torch optimizer can go on from a row. Numbers are always tensors (R, 1), never
Python floats, so that a row is computed in the same way whatever the others hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Numbers = Mapping[str, Tensor]  # of an optimizer: (R, 1); weight_decay (R, P), if there is any
State = Mapping[str, Tensor]  # (R, P), by torch's names


@dataclass(frozen=True)
class RowRule:
    """`update(weights (R, P), gradient (R, P), state, numbers, step (R, 1))` works in place."""

    update: Callable[[Tensor, Tensor, State, Numbers, Tensor], None]
    numbers: tuple[str, ...]  # of a parameter group; lr and weight_decay besides
    state: Callable[[Mapping[str, Any]], tuple[str, ...]]  # its names, given a parameter group
    counts_steps: bool = True
    never: tuple[str, ...] = ()  # options that are not computed here


def _coupled(weights: Tensor, gradient: Tensor, numbers: Numbers) -> Tensor:
    """The gradient with L2 regularisation."""
    decay = numbers.get("weight_decay")
    return gradient if decay is None else gradient.addcmul(weights, decay)


def sgd(weights: Tensor, gradient: Tensor, state: State, n: Numbers, step: Tensor) -> None:
    gradient = _coupled(weights, gradient, n)
    if "momentum_buffer" in state:
        momentum = state["momentum_buffer"].mul_(n["momentum"])
        # torch's first buffer is the gradient itself, undamped.
        momentum.addcmul_(gradient, torch.where(step == 1, 1.0, 1 - n["dampening"]))
        nesterov = gradient.addcmul(momentum, n["momentum"])
        gradient = torch.where(n["nesterov"] > 0, nesterov, momentum)
    weights.addcmul_(gradient, -n["lr"])


def adagrad(weights: Tensor, gradient: Tensor, state: State, n: Numbers, step: Tensor) -> None:
    gradient = _coupled(weights, gradient, n)
    rate = n["lr"] / (1 + (step - 1) * n["lr_decay"])
    total = state["sum"].addcmul_(gradient, gradient)
    weights.addcdiv_(gradient * -rate, total.sqrt().add_(n["eps"]))


def rmsprop(weights: Tensor, gradient: Tensor, state: State, n: Numbers, step: Tensor) -> None:
    gradient = _coupled(weights, gradient, n)
    mean = state["square_avg"].mul_(n["alpha"])
    mean.addcmul_(gradient * gradient, 1 - n["alpha"])
    root = mean.sqrt().add_(n["eps"])
    if "momentum_buffer" in state:
        momentum = state["momentum_buffer"].mul_(n["momentum"]).addcdiv_(gradient, root)
        weights.addcmul_(momentum, -n["lr"])
    else:
        weights.addcdiv_(gradient * -n["lr"], root)


def adam(weights: Tensor, gradient: Tensor, state: State, n: Numbers, step: Tensor) -> None:
    _adam(weights, _coupled(weights, gradient, n), state, n, step)


def adamw(weights: Tensor, gradient: Tensor, state: State, n: Numbers, step: Tensor) -> None:
    if "weight_decay" in n:
        weights.mul_(1 - n["lr"] * n["weight_decay"])
    _adam(weights, gradient, state, n, step)


def _adam(weights: Tensor, gradient: Tensor, state: State, n: Numbers, step: Tensor) -> None:
    mean = state["exp_avg"].lerp_(gradient, 1 - n["beta1"])
    square = state["exp_avg_sq"].mul_(n["beta2"])
    square.addcmul_(gradient * gradient, 1 - n["beta2"])
    # In float64, as torch has Python's: 1 - beta**step loses its digits in float32.
    unbiased1, unbiased2 = (1 - n[beta].double() ** step for beta in ("beta1", "beta2"))
    size = (n["lr"] / unbiased1).to(weights.dtype)
    root = square.sqrt().div_(unbiased2.sqrt().to(weights.dtype)).add_(n["eps"])
    weights.addcdiv_(mean * -size, root)


def _momentum_if_any(*others: str) -> Callable[[Mapping[str, Any]], tuple[str, ...]]:
    def state(group: Mapping[str, Any]) -> tuple[str, ...]:
        return (*others, "momentum_buffer") if group["momentum"] else others

    return state


def _moments(group: Mapping[str, Any]) -> tuple[str, ...]:
    return ("exp_avg", "exp_avg_sq")


ROW_RULES: dict[type, RowRule] = {
    torch.optim.SGD: RowRule(
        sgd, ("momentum", "dampening", "nesterov"), _momentum_if_any(), False, ("maximize",)
    ),
    torch.optim.Adagrad: RowRule(
        adagrad, ("lr_decay", "eps"), lambda group: ("sum",), never=("maximize",)
    ),
    torch.optim.RMSprop: RowRule(
        rmsprop,
        ("alpha", "eps", "momentum"),
        _momentum_if_any("square_avg"),
        never=("centered", "maximize"),
    ),
    torch.optim.Adam: RowRule(
        adam, ("beta1", "beta2", "eps"), _moments, never=("amsgrad", "maximize")
    ),
    torch.optim.AdamW: RowRule(
        adamw, ("beta1", "beta2", "eps"), _moments, never=("amsgrad", "maximize")
    ),
}
