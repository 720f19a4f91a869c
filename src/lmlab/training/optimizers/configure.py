"""The optimizer of a run: which parameters are in which group, and several that step as one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lmlab.errors import LabError, first_line
from lmlab.training.optimizers.parametrisation import Factors, scale_groups
from lmlab.training.optimizers.rules import REST, MakeOptimizer, Rule, assign, names_of

SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def configure(
    model: nn.Module,
    make: MakeOptimizer,
    rules: Mapping[str, Rule] | None = None,
    factors: Mapping[nn.Parameter, Factors] | None = None,
    beside: Sequence[nn.Parameter] = (),
) -> Optimizer:
    """An optimizer over the model's parameters that lets weight decay touch matrices only.

    Biases and the gains of norms are left alone: pulling them to zero regularises nothing. What
    `rules` match goes to optimizers of their own; what a loss trains `beside` the model, to the
    optimizer itself. `factors` are those of a parametrisation. Each group keeps its rate as
    `initial_lr`, which a schedule multiplies.

    Raises:
        LabError: naming the rule that takes nothing, or the parameter that an optimizer refuses.
    """
    rules, factors = rules or {}, factors or {}
    taken = assign(model, rules)
    optimizers = {REST: _optimizer_of("optimizer", make, [*taken[REST], *beside], model, factors)}
    for name, rule in rules.items():
        key = f"optimizer.rules.{name}"
        optimizers[name] = _optimizer_of(key, rule.make, taken[name], model, factors)
    optimizer = CombinedOptimizer(optimizers) if rules else optimizers[REST]
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _optimizer_of(
    key: str,
    make: MakeOptimizer,
    parameters: list[nn.Parameter],
    model: nn.Module,
    factors: Mapping[nn.Parameter, Factors],
) -> Optimizer:
    alike: dict[tuple[bool, Factors | None], list[nn.Parameter]] = {}
    for p in sorted(parameters, key=lambda p: p.dim() < 2):  # matrices first
        alike.setdefault((p.dim() < 2, factors.get(p)), []).append(p)
    groups: list[dict[str, Any]] = [
        {"params": members, **({"weight_decay": 0.0} if are_vectors else {})}
        for (are_vectors, _), members in alike.items()
    ]
    if not parameters and not any(p.requires_grad for p in model.parameters()):
        raise LabError(
            f"model: {type(model).__name__} has no parameters to train: give trainer.max_steps=0"
        )
    try:
        optimizer = make(groups)
    except (TypeError, ValueError, RuntimeError) as error:  # of arguments; of parameters
        raise LabError(f"{key}: {_refused(make, parameters, model, error)}") from error
    _check_steps(optimizer, key)
    if factors:
        scale_groups(optimizer, factors, key)
    return optimizer


def _check_steps(optimizer: Optimizer, key: str) -> None:
    """Refuse an optimizer that wants more of its steps than the lab's training gives."""
    kind, takes = type(optimizer).__name__, inspect.signature(optimizer.step).parameters
    if any(parameter.default is parameter.empty for parameter in takes.values()):
        wanted = ", ".join(takes)
        raise LabError(
            f"{key}: {kind}.step({wanted}) cannot be used: training calls step() with no argument"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise LabError(f"{key}: SparseAdam takes sparse gradients alone, and training makes none")


def _refused(
    make: MakeOptimizer, parameters: list[nn.Parameter], model: nn.Module, error: Exception
) -> str:
    """Why an optimizer could not be made: for its arguments, or for a parameter, which is named."""
    kind = getattr(getattr(make, "func", make), "__name__", str(make))
    reason = first_line(error)
    refused = [p for p in parameters if not _takes(make, p)]
    if not refused or not _takes(make, nn.Parameter(torch.zeros(2, 2))):
        return f"{kind} cannot be made: {reason}"
    name, shape = names_of(model)[refused[0]][0], tuple(refused[0].shape)
    more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    return (
        f"{kind} does not take {name} {shape}{more}: {reason}; give it to another by "
        "optimizer.rules"
    )


def _takes(make: MakeOptimizer, parameter: nn.Parameter) -> bool:
    try:
        make([parameter])
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def avoid_faulty_kernels(optimizer: Optimizer) -> None:
    """Turn `fused` off where that would train wrongly.

    torch 2.13's fused SGD on a CPU leaves whole vectors of 16-bit weights as they are (pytorch
    #191763). Its other fused rules, and all of them in 32 and 64 bits, take the steps they should.
    """
    for one in _by_rule(optimizer).values():
        for group in one.param_groups if isinstance(one, torch.optim.SGD) else ():
            if any(p.device.type == "cpu" and p.dtype in SIXTEEN_BITS for p in group["params"]):
                group["fused"] = False


def eps_lost(optimizer: Optimizer) -> str | None:
    """What to do where an optimizer's eps is lost in the type of its weights; None if it is not.

    It is added to squares of gradients, or to their roots. In float16 these underflow as well, so
    steps are then divided by 0.
    """
    for name, groups in groups_by_rule(optimizer).items():
        key = "optimizer.eps" if name == REST else f"optimizer.rules.{name}.eps"
        for group in groups:
            eps, dtype = group.get("eps"), group["params"][0].dtype
            if isinstance(eps, float) and 0 < eps < torch.finfo(dtype).smallest_normal:
                near = "next to 0" if torch.tensor(eps, dtype=dtype) else "0"
                kind = str(dtype).removeprefix("torch.")
                return (
                    f"{key}={eps:g} is {near} in {kind}, and steps are divided by it: give "
                    f"{key}=1e-4, or trainer.precision=bf16-true or 16-mixed"
                )
    return None


def _by_rule(optimizer: Optimizer) -> dict[str, Optimizer]:
    return optimizer.optimizers if isinstance(optimizer, CombinedOptimizer) else {REST: optimizer}


def groups_by_rule(optimizer: Optimizer) -> dict[str, list[dict[str, Any]]]:
    """The parameter groups of each rule; of a single optimizer they are all the REST."""
    return {name: one.param_groups for name, one in _by_rule(optimizer).items()}


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
