"""Self-attention, written out: each token gathers from its past what it looks for."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.bounds import Count, Divides
from lmlab.errors import LabError
from lmlab.models.maps import Watch
from lmlab.models.memory import Past, causal_mask

Heads = Annotated[Count, Divides("n_embd")]  # how many heads share n_embd


def attention_weights(
    query: Tensor,
    key: Tensor,
    scaled: bool = True,
    window: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """How much each position takes from each: query, key (..., T, hs) -> (..., T, T).

    Row t is a distribution over positions 0 to t. Where there are fewer queries than keys, they are
    those of the last positions. `scaled` divides the affinities by sqrt(hs): the
    dot product of two random vectors grows with their length, and without it the softmax of a fresh
    model is close to one-hot (Vaswani et al. 2017, section 3.2.1). The rest is version 3 of
    averaging, with affinities that the data choose. With a `window` a position looks at no more
    than that many, itself among them. A `mask` (..., T, T) that is true where one may look stands
    in place of both rules.
    """
    n_queries, n_keys, head_size = query.shape[-2], key.shape[-2], query.shape[-1]
    wei = query @ key.transpose(-2, -1)  # (..., T, hs) @ (..., hs, T) -> (..., T, T)
    if scaled:
        wei = wei * head_size**-0.5
    if mask is None and n_queries > 1:  # the last position has nothing ahead of it
        mask = causal_mask(n_queries, n_keys, wei.device, window)
    if mask is not None:
        wei = wei.masked_fill(~mask, float("-inf"))  # no looking ahead
    return F.softmax(wei, dim=-1)


class Head(nn.Module):
    """One head of self-attention.

    Each token's query says what it looks for, its key what it holds, and its value what it hands
    over when another token finds it.
    """

    past: Past | None = None
    watch: Watch | None = None
    n_head = 1

    def __init__(self, n_embd: Count, head_size: Count | None = None, scaled: bool = True):
        """`head_size` is n_embd unless given; `scaled=False` is the notebook's version 4."""
        super().__init__()
        head_size = n_embd if head_size is None else head_size
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)
        self.scaled = scaled

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> (B, T, head_size)."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.past is not None:
            key, value = self.past.extend(key, value)
        wei = attention_weights(query, key, self.scaled)
        if self.watch is not None:
            self.watch(wei[:, None])
        return wei @ value  # (B, T, T) @ (B, T, hs) -> (B, T, hs)


class MultiHead(nn.Module):
    """Several small heads side by side: several questions asked of the past at once."""

    positionwise = True  # but for its heads

    def __init__(self, n_embd: Count, n_head: Heads):
        super().__init__()
        head_size = size_of_heads(n_embd, n_head)
        self.heads = nn.ModuleList(Head(n_embd, head_size) for _ in range(n_head))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> (B, T, n_embd)."""
        return torch.cat([head(x) for head in self.heads], dim=-1)


class ProjectedMultiHead(MultiHead):
    """Multi-head attention whose heads' findings are mixed before they join the residual stream."""

    positionwise = True

    def __init__(self, n_embd: Count, n_head: Heads):
        super().__init__(n_embd, n_head)
        self.projection = nn.Linear(n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> (B, T, n_embd)."""
        return self.projection(super().forward(x))


def size_of_heads(n_embd: int, n_head: int) -> int:
    """n_embd shared out among n_head heads.

    Raises:
        LabError: if that does not come out even.
    """
    if n_embd % n_head:
        raise LabError(f"model.n_embd={n_embd} is not divisible by n_head={n_head}")
    return n_embd // n_head
