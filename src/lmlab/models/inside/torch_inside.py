"""What is touched of torch's modules beyond their public interface, here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

COMPILED = "_orig_mod."  # how torch.compile begins the names of a module's weights


def uncompiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A model without what `model.compile()` made of it: that is compiled anew for every length of
    idx, and calls no hooks of its modules."""
    return model if model._compiled_call_impl is None else model.forward


def is_torchs(module: nn.Module) -> bool:
    """Whether a module is a simple one of torch.nn, or one of its containers.

    Not those that are built of others and mix positions, such as nn.TransformerEncoderLayer.
    """
    container = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    simple = container or not any(True for _ in module.children())
    return simple and type(module).forward.__module__.startswith("torch.nn.")


def lend(module: nn.Module, name: str, value: object) -> None:
    """Set what a class has as None, such as `past`: as `setattr` does, in a tenth of its time."""
    module.__dict__[name] = value


def take_back(module: nn.Module, name: str) -> None:
    """The class's None is there again."""
    module.__dict__.pop(name, None)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Within, every module is in eval mode; afterwards each is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
