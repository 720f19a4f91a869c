"""The mathematical trick behind attention: every position averages itself and its past.

Three versions of one function, x (B, T, C) -> (B, T, C), from the loop one would write first to the
form that attention takes: there the weights stop being equal and come to depend on the data.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.models.maps import Watch
from lmlab.models.memory import Past


def average_by_loop(x: Tensor) -> Tensor:
    """Version 1: out[b, t] is the mean of x[b, :t + 1], as two loops say it."""
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[b, t] = x[b, : t + 1].mean(0)
    return out


def average_by_matmul(x: Tensor) -> Tensor:
    """Version 2: a (T, T) lower triangle of ones, each row made to sum to 1, times (B, T, C)."""
    return equal_weights(x) @ x


def equal_weights(x: Tensor) -> Tensor:
    """(T, T) for x (B, T, C): row t takes equally from positions 0 to t."""
    T = x.shape[1]
    wei = torch.tril(torch.ones(T, T, dtype=x.dtype, device=x.device))
    return wei / wei.sum(1, keepdim=True)


def average_by_softmax(x: Tensor) -> Tensor:
    """Version 3: equal affinities (zeros), the future masked out, and a softmax over each row."""
    T = x.shape[1]
    tril = torch.tril(torch.ones(T, T, device=x.device))
    wei = torch.zeros(T, T, dtype=x.dtype, device=x.device)
    wei = wei.masked_fill(tril == 0, float("-inf"))
    wei = F.softmax(wei, dim=-1)
    return wei @ x


class Average(nn.Module):
    """Averaging as a layer: what attention would be if every token were as interesting."""

    past: Past | None = None
    watch: Watch | None = None
    pictured_as = "averages"

    def __init__(self, n_embd: int):
        """`n_embd` is not needed; it is taken so that this fits wherever a layer does."""
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> (B, T, n_embd)."""
        n_new = x.shape[1]
        if self.past is not None:
            (x,) = self.past.extend(x)
        wei = equal_weights(x)
        if self.watch is not None:
            self.watch(wei[None, None].expand(len(x), -1, -1, -1))
        return (wei @ x)[:, -n_new:]
