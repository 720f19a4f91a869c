"""What a model keeps of the tokens it has read, so that the next one costs one position's work.

Without it every new token is paid for with a pass over all that came before. A module that mixes
positions declares `past: Past | None = None`; while that is set, it is given the new positions
alone, adds what it needs of them (attention: their keys and values) and works with all it has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# These treat each position alike and alone, so there is nothing for them to keep.
POSITIONWISE = {
    kind.forward
    for kind in (
        nn.Linear,
        nn.LayerNorm,
        nn.Embedding,
        nn.Dropout,
        nn.ReLU,
        nn.GELU,
        nn.Sequential,
        nn.ModuleList,
    )
}


class Past:
    """Tensors (..., T, C) of one module, growing along T."""

    def __init__(self) -> None:
        self.length = 0
        self.kept: list[Tensor] = []

    def pass_by(self, n_positions: int) -> int:
        """Count new positions; returns where they start."""
        self.length += n_positions
        return self.length - n_positions

    def extend(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Add T positions, one tensor (..., T, C) for each that is kept; returns all positions."""
        start = self.pass_by(new[0].shape[-2])
        if not self.kept or self.length > self.kept[0].shape[-2]:
            room = max(16, 2 * self.length)  # doubling, so that little is ever copied again
            old, self.kept = self.kept, [t.new_empty(*t.shape[:-2], room, t.shape[-1]) for t in new]
            for before, now in zip(old, self.kept, strict=False):
                now[..., :start, :] = before[..., :start, :]
        for kept, tensor in zip(self.kept, new, strict=True):
            kept[..., start : self.length, :] = tensor
        return tuple(kept[..., : self.length, :] for kept in self.kept)


class Memory:
    """What a whole model has read. `with memory:` it goes on from there; outside it is as ever."""

    def __init__(self, model: nn.Module):
        self.pasts = [(m, Past()) for m in model.modules() if hasattr(type(m), "past")]

    @staticmethod
    def of(model: nn.Module) -> Memory | None:
        """An empty one; None if any part of the model might look back without a `past`."""
        known = all(_is_known(type(module)) for module in model.modules())
        return Memory(model) if known and not hasattr(model, "sees") else None

    def __enter__(self) -> None:
        for module, past in self.pasts:
            module.__dict__["past"] = past  # what `module.past = past` does, in a tenth of its time

    def __exit__(self, *_: Any) -> None:
        for module, _past in self.pasts:
            del module.__dict__["past"]


def causal_mask(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """(n_queries, n_keys), true where a query may look: the queries are the last positions."""
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def _is_known(kind: type[nn.Module]) -> bool:
    """Whether what a module does to positions is known: it is ours or torch's, or says so."""
    ours = kind.forward.__module__.startswith("lmlab.models.")
    return ours or kind.forward in POSITIONWISE or hasattr(kind, "past")
