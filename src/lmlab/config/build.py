"""From a checked config to the parts of an experiment."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from lmlab.errors import LabError

if TYPE_CHECKING:
    from torch import nn

# What a constructor raises of its arguments, or for want of a file.
REFUSALS = (TypeError, ValueError, RuntimeError, AssertionError, ImportError, OSError)


def part(node: dict[str, Any], key: str, kind: type, **more: Any) -> Any:
    """Instantiate one node of a config.

    A config may come with somebody else's checkpoint, so a target is called only if it says that it
    makes what is wanted: a class of `kind`, or a function annotated to return one.

    Raises:
        LabError: naming `key`, if its target is not there, is no `kind`, or refuses its arguments.
        Exception: a fault within somebody's target, as it is.
    """
    for target_key, target in targets(node, key):
        if not _makes(target, kind):
            raise LabError(f"{target_key}={target}: not a {kind.__module__}.{kind.__qualname__}")
    try:
        # "all": plain lists and dicts, since a checkpoint holds no other kind of container.
        made = instantiate(node, **more, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, LabError):
            cause = cause.__cause__
        if isinstance(cause, LabError):
            raise cause from error
        if not isinstance(cause, REFUSALS):  # a fault within it, whose place is wanted
            raise cause from None
        said = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise LabError(f"{key}: {node.get('_target_')} cannot be made: {said}") from error
    if not node.get("_partial_") and not isinstance(made, kind):
        wanted = f"{kind.__module__}.{kind.__qualname__}"
        raise LabError(f"{key}: {node['_target_']} has to make a {wanted}; it returns {made!r:.80}")
    return made


def targets(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every `_target_` in a node, at any depth, with its key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield f"{key}._target_", str(node["_target_"])
        if node.get("_recursive_") is False:
            return  # what stands below is an argument, which is not made
        for name, child in node.items():
            yield from targets(child, f"{key}.{name}")
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from targets(child, f"{key}.{i}")


def named(target: str) -> Any:
    """The class or function that a `_target_` names.

    Raises:
        LabError: if it cannot be imported.
    """
    try:
        return get_object(target)
    except Exception as error:  # whatever importing somebody's module raises
        reason = str(error.__cause__ or error).splitlines()[0]
        raise LabError(f"{target} cannot be imported: {reason}") from error


def _makes(target: str, kind: type) -> bool:
    made_by = named(target)
    if isinstance(made_by, type):
        return issubclass(made_by, kind)
    try:
        return inspect.isfunction(made_by) and get_type_hints(made_by).get("return") is kind
    except (NameError, TypeError):  # an annotation that cannot be resolved promises nothing
        return False


def model(config: dict[str, Any], vocab_size: int) -> nn.Module:
    """The model of a config, freshly initialised from torch's default generator."""
    from torch import nn  # here, since a job that is done only asks for its tokens

    block_size = config["data"]["block_size"]
    made = part(config["model"], "model", nn.Module, vocab_size=vocab_size, block_size=block_size)
    if "_parameters" not in vars(made):
        target = config["model"]["_target_"]
        raise LabError(f"model: {target}.__init__ has to begin with super().__init__()")
    if not hasattr(made, "block_size"):  # sampling asks how many tokens it may see
        made.block_size = block_size
    if not hasattr(made, "vocab_size"):  # rules of optimizers ask which weight makes the logits
        made.vocab_size = vocab_size
    return made


def optimizer(config: dict[str, Any], key: str = "optimizer") -> partial[Any]:
    """The optimizer of a config, still to be given parameters; `key` is where it stands."""
    from torch.optim import Optimizer

    node = {name: value for name, value in config["optimizer"].items() if name != "rules"}
    return part({**node, "_partial_": True}, key, Optimizer)


def schedule(config: dict[str, Any], key: str = "schedule") -> partial[float]:
    """The learning-rate schedule of a config: (step, max_steps) -> multiplier."""
    deferred = part({**config["schedule"], "_partial_": True}, key, float)
    # Hydra's own partial goes through its list of forbidden targets at every call: 0.2 ms a step.
    ours = partial(deferred.func, *deferred.args, **deferred.keywords)
    target = str(config["schedule"]["_target_"])
    return ours if target.startswith("lmlab.") else partial(_factor, ours, f"{key}: {target}")


def _factor(schedule: partial[float], name: str, step: int, max_steps: int) -> float:
    """What somebody's schedule returns.

    Raises:
        LabError: if that is no number to multiply a rate by.
    """
    factor: Any = schedule(step, max_steps)
    try:
        is_number = not isinstance(factor, str) and math.isfinite(factor)
    except (TypeError, ValueError):
        is_number = False
    if not is_number:
        raise LabError(
            f"{name}({step}, {max_steps}) has to return a number that the learning rate is "
            f"multiplied by; it returns {factor!r:.80}"
        )
    number: float = factor
    return number
