"""Models that say of themselves what the lab asks."""

from typing import Annotated

import torch
from torch import Tensor, nn

from lmlab.bounds import BelowOne, Count, Divides
from lmlab.models.maps import Watch
from lmlab.models.memory import Past


class Nearness(nn.Module):
    """(B, T, C) -> (B, T, C): each head takes less from what is further back, at its own pace."""

    past: Past | None = None
    watch: Watch | None = None

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.pace = nn.Parameter(torch.linspace(0.1, 2.0, n_head))
        self.value = nn.Linear(n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        value, n_new = self.value(x), x.shape[1]
        if self.past is not None:
            (value,) = self.past.extend(value)
        B, T, C = value.shape
        place = torch.arange(T, device=x.device)
        age = place[:, None] - place
        wei = (-self.pace[:, None, None] * age).masked_fill(age < 0, float("-inf")).softmax(-1)
        if self.watch is not None:
            self.watch(wei.expand(B, -1, -1, -1))
        heads = value.view(B, T, len(self.pace), -1).transpose(1, 2)  # (B, n_head, T, C / n_head)
        return (wei @ heads).transpose(1, 2).reshape(B, T, C)[:, -n_new:]


class Near(nn.Module):
    """Tokens, what is near them, logits."""

    positionwise = True

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_embd: Count,
        n_head: Annotated[Count, Divides("n_embd")] = 2,
        dropout: BelowOne = 0.0,
        n_layer: Count = 1,
    ):
        super().__init__()
        self.token = nn.Embedding(vocab_size, n_embd)
        self.layers = nn.Sequential(*(Nearness(n_embd, n_head) for _ in range(n_layer)))
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(n_embd, vocab_size)

    def forward(self, idx: Tensor) -> Tensor:
        return self.logits(self.dropout(self.layers(self.token(idx))))


class Pairwise(nn.Module):
    """The logits of a token are a product of two small matrices."""

    def __init__(self, vocab_size: int, block_size: int, rank: Count):
        super().__init__()
        self.left = nn.Embedding(vocab_size, rank)
        self.right = nn.Linear(rank, vocab_size)

    def next_token_logits(self) -> Tensor:
        return self.right(self.left.weight)

    def forward(self, idx: Tensor) -> Tensor:
        return self.next_token_logits()[idx]


class Counting(nn.Module):
    """How often each token is there. Nothing is trained."""

    def __init__(self, vocab_size: int, block_size: int):
        super().__init__()
        self.register_buffer("counts", torch.ones(vocab_size))

    def fit(self, tokens: Tensor) -> None:
        self.counts += torch.bincount(tokens.long(), minlength=len(self.counts))

    def forward(self, idx: Tensor) -> Tensor:
        return self.counts.log().expand(*idx.shape, -1)
