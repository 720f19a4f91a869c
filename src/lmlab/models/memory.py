"""What a model keeps of the tokens it has read, so that the next one costs one position's work.

Without it every new token is paid for with a pass over all that came before. A class says for
itself that its forward may be given the new positions alone, in one of two ways:

- It mixes positions and declares `past: Past | None = None`. While that is set, it adds to it what
  it needs of the new positions (attention: their keys and values) and works with all there is.
- It declares `positionwise = True`: whatever it does itself, it does to each position alike and
  alone. Its submodules speak for themselves.

Either covers the modules of torch.nn that the class uses, if these hold no others (but for
Sequential and its like). A model with any other module that says neither is always given all
positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lmlab.models.contract import Hooks, declares, takes_new_tokens_alone
from lmlab.models.inside.torch_inside import is_torchs, lend, take_back


class Past:
    """Tensors (..., T, C) of one module, growing along T."""

    def __init__(self) -> None:
        self.length = 0  # positions that have been read
        self.held = 0  # of these, how many of the last ones fill `kept`
        self.kept: list[Tensor] = []

    def pass_by(self, n_positions: int) -> int:
        """Count new positions; returns where they start."""
        self.length += n_positions
        return self.length - n_positions

    def extend(self, *new: Tensor, reach: int | None = None) -> tuple[Tensor, ...]:
        """Add T positions, one tensor (..., T, C) for each that is kept; returns all positions.

        `reach` is how many positions before its own each still looks at, None: all. Only so many
        before the new ones are returned, and those further back are let go.
        """
        n_new = new[0].shape[-2]
        self.pass_by(n_new)
        before = self.held if reach is None else min(self.held, reach)
        if not self.kept or self.held + n_new > self.kept[0].shape[-2]:
            room = max(16, 2 * (before + n_new))  # doubling: little is ever copied again
            old, self.kept = self.kept, [t.new_empty(*t.shape[:-2], room, t.shape[-1]) for t in new]
            for was, now in zip(old, self.kept, strict=False):
                now[..., :before, :] = was[..., self.held - before : self.held, :]
            self.held = before
        self.held += n_new
        for kept, tensor in zip(self.kept, new, strict=True):
            kept[..., self.held - n_new : self.held, :] = tensor
        return tuple(kept[..., self.held - n_new - before : self.held, :] for kept in self.kept)

    def select(self, rows: Tensor) -> None:
        """Go on with these of the sequences, each perhaps several times."""
        self.kept = [t[..., : self.held, :].index_select(0, rows) for t in self.kept]


class Memory:
    """What a whole model has read. `with memory:` it goes on from there; outside it is as ever."""

    def __init__(self, model: nn.Module):
        self.pasts = [(m, Past()) for m in model.modules() if declares(m, "past")]

    @staticmethod
    def of(model: nn.Module) -> Memory | None:
        """An empty one; None if any part of the model might look back without a `past`."""
        able = takes_new_tokens_alone(model) and all(
            takes_new_tokens_alone(module) or is_torchs(module) for module in model.modules()
        )
        return Memory(model) if able and Hooks.of(model).sees is None else None

    def select(self, rows: Tensor) -> None:
        """Go on with these of the B sequences that were read, each perhaps several times."""
        for _module, past in self.pasts:
            past.select(rows)

    def __enter__(self) -> None:
        for module, past in self.pasts:
            lend(module, "past", past)

    def __exit__(self, *_: Any) -> None:
        for module, _past in self.pasts:
            take_back(module, "past")


def causal_mask(
    n_queries: int, n_keys: int, device: torch.device, window: int | None = None
) -> Tensor:
    """(n_queries, n_keys), true where a query may look: the queries are the last positions.

    With a `window` it looks at no more than that many positions, its own among them.
    """
    shift = n_keys - n_queries
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(shift)
    return mask if window is None else mask.triu(shift - window + 1)
