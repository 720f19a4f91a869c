"""A model and a layer."""

import torch
from torch import Tensor, nn

from .shapes import widened


class MyModel(nn.Module):
    """Token and place, a wide layer, logits. It fails beyond block_size tokens."""

    def __init__(self, vocab_size: int, block_size: int, n_embd: int):
        super().__init__()
        self.token = nn.Embedding(vocab_size, n_embd)
        self.place = nn.Embedding(block_size, n_embd)
        self.wide = nn.Linear(n_embd, widened(n_embd))
        self.logits = nn.Linear(widened(n_embd), vocab_size)

    def forward(self, idx: Tensor) -> Tensor:
        x = self.token(idx) + self.place(torch.arange(idx.shape[1], device=idx.device))
        return self.logits(self.wide(x).relu())


class Gate(nn.Module):
    """(B, T, C) -> (B, T, C)."""

    def __init__(self, n_embd: int, strength: float):
        super().__init__()
        self.gate, self.strength = nn.Linear(n_embd, n_embd), strength

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.strength * self.gate(x)).sigmoid()
