"""From a checked config to the parts of an experiment."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

from hydra.utils import get_object

from lmlab.config.instantiate import instantiate, is_recursive
from lmlab.config.targets import class_name, named
from lmlab.errors import LabError, first_line
from lmlab.models.contract import give_sizes

if TYPE_CHECKING:
    from torch import nn

# What a constructor raises of its arguments, or for want of a file.
REFUSALS = (TypeError, ValueError, RuntimeError, AssertionError, ImportError, OSError)

MOST_PARTS = 20_000  # modules and parameters of a model: some seconds to make


class TooLargeError(LabError):
    """A model that would take too long to make on whatever device, or whose sizes are beyond it."""


def part(node: dict[str, Any], key: str, kind: type, **more: Any) -> Any:
    """Instantiate one node of a config, as Hydra does, but for this: a text is a text, `${…}` too.

    A target is called only if it says that it makes what is wanted: a class of `kind`, or a
    function annotated to return one. What others' configs may name, `trust.check_stored` checks.

    Raises:
        LabError: naming `key`, if its target is not there, is no `kind`, or refuses its arguments.
        Exception: a fault within somebody's target, as it is.
    """
    if node.get("_partial_"):
        raise LabError(f"{key}._partial_=True: {node['_target_']} is made at once; leave it out")
    made = _part(node, key, kind, more)
    if not isinstance(made, kind):
        wanted = class_name(kind)
        raise LabError(f"{key}: {node['_target_']} has to make a {wanted}; it returns {made!r:.80}")
    return made


def unmade(node: dict[str, Any], key: str, kind: type) -> partial[Any]:
    """A node's target with the arguments that stand there, still to be given others and called.

    Raises:
        LabError: as `part` does.
    """
    made: partial[Any] = _part({**node, "_partial_": True}, key, kind, {})
    return made


def _part(node: dict[str, Any], key: str, kind: type, more: dict[str, Any]) -> Any:
    for target_key, target in targets(node, key):
        if not _makes(target, kind):
            raise LabError(f"{target_key}={target}: not a {class_name(kind)}")
    try:
        return instantiate(node, get_object, **more)
    except LabError:
        raise
    except REFUSALS as error:
        raise LabError(
            f"{key}: {node.get('_target_')} cannot be made: {first_line(error)}"
        ) from error


def targets(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every `_target_` that `instantiate` comes to in a node, at any depth, with its key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield f"{key}._target_", str(node["_target_"])
            if not is_recursive(node):
                return
        for name, child in node.items():
            yield from targets(child, f"{key}.{name}")
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from targets(child, f"{key}.{i}")


def _makes(target: str, kind: type) -> bool:
    made_by = named(target)
    if isinstance(made_by, type):
        return issubclass(made_by, kind)
    try:
        # Not one that a module of theirs only imports: torch has functions that take source text.
        package = target.partition(".")[0]
        is_own = inspect.isfunction(made_by) and made_by.__module__.partition(".")[0] == package
        return is_own and get_type_hints(made_by).get("return") is kind
    except (NameError, TypeError):  # an annotation that cannot be resolved promises nothing
        return False


def model(
    node: dict[str, Any], vocab_size: int, block_size: int, most: int = MOST_PARTS
) -> nn.Module:
    """The model of a node, freshly initialised from torch's default generator.

    Raises:
        LabError: if it cannot be made, or has more than `most` modules and parameters.
    """
    from torch import nn  # here, since a job that is done only asks for its tokens

    with _no_more_than(most):
        made = part(node, "model", nn.Module, vocab_size=vocab_size, block_size=block_size)
    if "_parameters" not in vars(made):
        raise LabError(f"model: {node['_target_']}.__init__ has to begin with super().__init__()")
    give_sizes(made, vocab_size, block_size)
    return made


@contextmanager
def _no_more_than(most: int) -> Iterator[None]:
    """Stop a model from being made, which for a million layers would take hours."""
    from torch.nn.modules import module as hooks

    counted = itertools.count(1)

    def count(*_: Any) -> None:
        if next(counted) > most:
            raise TooLargeError(
                f"model: more than {most:,} modules and weights; give it fewer layers"
            )

    handles = [
        hooks.register_module_module_registration_hook(count),
        hooks.register_module_parameter_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def optimizer(node: dict[str, Any], key: str = "optimizer") -> partial[Any]:
    """The optimizer of a node, still to be given parameters; `key` is where it stands."""
    from torch.optim import Optimizer

    itself = {name: value for name, value in node.items() if name != "rules"}
    return unmade(itself, key, Optimizer)


def schedule(node: dict[str, Any], key: str = "schedule") -> partial[float]:
    """The learning-rate schedule of a node: (step, max_steps) -> multiplier."""
    ours: partial[float] = unmade(node, key, float)
    target = str(node["_target_"])
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
