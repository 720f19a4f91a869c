"""What the lab asks of a model, and what a model or a layer may say of itself.

A model is any `torch.nn.Module` whose constructor takes `vocab_size` and `block_size`, and whose
`forward` takes idx (B, T) to logits (B, T, vocab_size) for T up to block_size. It imports nothing
of the lab's. All else may be left out:

- `Hooks` lists what a model may have, by name, and what holds where it has not.
- A class of a model or a layer may declare `past: Past | None = None` (`lmlab.models.memory`) or
  `positionwise = True`: sampling then hands over new tokens alone.
- A class of a model may declare `end_of_text: int | None = None`: it is set where windows are
  packed with documents (`data.order=documents`) to the id behind each, and says that attention then
  stays within one (`lmlab.models.inside.document_mask`).
- A class of a layer may declare `watch: Watch | None = None` (`lmlab.models.maps`): pictures of
  where it looks, called by its `pictured_as`.
- Annotations of a constructor, such as `n_layer: Count` (`lmlab.bounds`): a config is checked by
  them before anything is built.

The lab reads these here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that a config is read without torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Hooks:
    """What a model has by these names; the defaults are of one that has not."""

    # How many tokens there are, and how many forward takes. A model that a config names is given
    # these where it does not keep them itself.
    vocab_size: int | None = None
    block_size: int | None = None

    # Called once with the train split (n,), in place of any training: the model counts it.
    fit: Callable[[Tensor], None] | None = None

    # Called with the train split (n,) before the first step, also when a run goes on. The model is
    # trained by gradient all the same.
    prepare: Callable[[Tensor], None] | None = None

    # How many of the last tokens decide the next; None: all of block_size. When sampling no more
    # are handed over.
    sees: int | None = None

    # Beside `past`: whether sampling goes on beyond block_size without reading anything twice. Each
    # layer has a window then, and nothing counts places.
    endless: bool = False

    # Models that answer together, if it is an nn.ModuleDict: each has a read-out of its own.
    members: nn.ModuleDict | None = None

    # Logits (vocab_size, vocab_size) of what follows each token alone: a picture of that table is
    # drawn, beside how often the text has each pair.
    next_token_logits: Callable[[], Tensor] | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Hooks:
        """What a model has; a hook that is None is as one that is not there."""
        values = {hook.name: getattr(model, hook.name, None) for hook in fields(cls)}
        return cls(**{name: value for name, value in values.items() if value is not None})


def give_sizes(model: nn.Module, vocab_size: int, block_size: int) -> None:
    """Set both on a model that has none: sampling asks how many tokens it may hand over, and rules
    of optimizers which weight makes the logits."""
    for name, size in (("vocab_size", vocab_size), ("block_size", block_size)):
        if not hasattr(model, name):
            setattr(model, name, size)


def n_head(model: nn.Module) -> int | None:
    """What the first of a model's modules that has an `n_head` says; None if none has."""
    numbers = (getattr(module, "n_head", None) for module in model.modules())
    return next((number for number in numbers if number is not None), None)


def pictured_as(layer: nn.Module) -> str:
    """What pictures of where a layer looks are called: its `pictured_as`, or attention."""
    name: str = getattr(layer, "pictured_as", "attention")
    return name


def declares(module: nn.Module, name: str) -> bool:
    """Whether a module's class has an attribute that is None until it is needed, such as `past`."""
    return getattr(type(module), name, ...) is None


def takes_new_tokens_alone(module: nn.Module) -> bool:
    """Whether a module's class says so of its forward: it has a `past`, or is `positionwise`.

    What a class says of its own forward does not hold for that of a subclass.
    """
    ancestors = type(module).__mro__
    own = next(i for i, ancestor in enumerate(ancestors) if "forward" in vars(ancestor))
    return any(
        vars(a).get("past", ...) is None or vars(a).get("positionwise") is True
        for a in ancestors[: own + 1]
    )
