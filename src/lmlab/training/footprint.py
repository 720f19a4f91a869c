"""How much memory a config needs, computed from shapes alone, before any is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.filesize import decimal
from torch import nn

from lmlab.config import build
from lmlab.errors import LabError
from lmlab.memory_limit import memory_bytes
from lmlab.training.optimizers.configure import configure
from lmlab.training.optimizers.rules import rules_of

SMALL = 1 / 16  # weights below this part of memory fit, whatever the optimizer keeps beside them


@dataclass(frozen=True)
class Footprint:
    """The model of a config on the meta device, and bytes."""

    model: nn.Module
    weights: int  # those that are trained; their gradients take as much
    optimizer: int | None  # None: its first step has to see numbers


def footprint(config: dict[str, Any], vocab_size: int) -> Footprint:
    """What a config asks for.

    Raises:
        LabError: if its model or its optimizer cannot be made.
    """
    try:
        model = shapes(config, vocab_size)
    except build.TooLargeError:
        raise
    except LabError:  # somebody's own may compute while it is built
        model = build.model(config, vocab_size)
    return Footprint(model, _trained_bytes(model), _optimizer_bytes(model, config))


def check_fits(config: dict[str, Any], vocab_size: int) -> None:
    """Refuse what this machine's memory cannot hold, which the system would end without a word.

    On another device than the CPU only the weights count: there they are made, on their way.

    Raises:
        LabError: if weights, gradients and what the optimizer keeps are more than there is.
    """
    memory = memory_bytes()
    try:
        model = shapes(config, vocab_size)
    except build.TooLargeError:
        raise
    except LabError:
        return  # made in earnest it says why; or it is a model that cannot do without memory
    needed = _trained_bytes(model)
    if needed < SMALL * memory:
        return
    if _trains_on_cpu(config.trainer.accelerator):
        needed = 2 * needed + (_optimizer_bytes(model, config) or 0)
    if needed > memory:
        n_parameters = sum(p.numel() for p in model.parameters())
        raise LabError(
            f"model={type(model).__name__} of {n_parameters:,} parameters (vocabulary of "
            f"{vocab_size:,}) needs {decimal(needed)} of memory to be trained, and this machine "
            f"has {decimal(memory)}: choose a smaller model, or a tokenizer of fewer tokens"
        )


def _trains_on_cpu(accelerator: str) -> bool:
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())


def shapes(config: dict[str, Any], vocab_size: int, most: int = build.MOST_PARTS) -> nn.Module:
    """The model of a config on the meta device, which takes no memory.

    Raises:
        TooLargeError: if no computer could hold one of its weights.
        LabError: if it cannot be made, or computes while it is.
    """
    try:
        with torch.device("meta"):
            return build.model(config, vocab_size, most)
    except LabError as error:
        if isinstance(error.__cause__, RuntimeError) and "overflow" in str(error.__cause__):
            target = config.model["_target_"]
            raise build.TooLargeError(
                f"model: {target} has weights of 2^63 bytes and more; give it smaller sizes"
            ) from error
        raise


def _trained_bytes(model: nn.Module) -> int:
    return _n_bytes([p for p in model.parameters() if p.requires_grad])


def _n_bytes(tensors: list[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _optimizer_bytes(model: nn.Module, config: dict[str, Any]) -> int | None:
    """What the optimizer keeps, found by letting it take a step on shapes alone; None for one that
    cannot, as torch's Adafactor, which looks at the weights' norms."""
    if not any(p.requires_grad for p in model.parameters()):
        return 0
    optimizer = configure(model, build.optimizer(config), rules_of(config))
    for group in optimizer.param_groups:
        group["fused"] = None
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    try:
        optimizer.step()
    except (RuntimeError, TypeError, ValueError):  # of numbers that are not there
        return None
    states = [value for state in optimizer.state.values() for value in state.values()]
    return _n_bytes([value for value in states if isinstance(value, torch.Tensor)])
