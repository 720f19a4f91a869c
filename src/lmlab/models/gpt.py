"""GPT: the top of the ladder, as one would train it."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.bounds import BelowOne, Count
from lmlab.models.attention import Heads, attention_weights, size_of_heads
from lmlab.models.maps import Watch
from lmlab.models.memory import Past, causal_mask
from lmlab.models.parts import DropPath, rising

Approximation = Literal["none", "tanh"]  # as torch.nn.GELU has it


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float,
    window: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Causal attention: query (B, n_head, T, hs), key and value (B, n_head, T or more, hs).

    Where there are more keys than queries, the queries are those of the last positions. With a
    `window` each looks at no more than that many positions, its own among them. A `mask`
    (B, 1, T, keys) that is true where a query may look stands in place of both rules.
    """
    (B, n_head, T, head_size), n_keys = query.shape, key.shape[-2]
    if window is not None and window >= n_keys:
        window = None
    if query.device.type != "cpu" or query.dtype == torch.float32:
        is_causal = T == n_keys > 1 and window is None and mask is None
        if mask is None and (1 < T < n_keys or window is not None):
            mask = causal_mask(T, n_keys, query.device, window)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=is_causal, dropout_p=dropout
        )
    # In low precision the backward pass of torch's fused attention on a CPU takes nearly three
    # times as long as in float32, and as long as all the rest of a small GPT.
    query, key, value = (t.reshape(B * n_head, -1, head_size) for t in (query, key, value))
    if mask is None:
        mask = causal_mask(T, n_keys, query.device, window)
    else:
        mask = mask.expand(B, n_head, T, n_keys).reshape(B * n_head, T, n_keys)
    no_looking_ahead = query.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    wei = torch.baddbmm(no_looking_ahead, query, key.transpose(1, 2), alpha=head_size**-0.5)
    with torch.autocast("cpu", enabled=False):  # softmax adds up in float32 whatever it is given
        wei = F.dropout(F.softmax(wei, dim=-1), dropout)
    return (wei @ value).view(B, n_head, T, head_size)


class CausalSelfAttention(nn.Module):
    """All heads in one go, by torch's fused attention where that is the fastest."""

    past: Past | None = None
    watch: Watch | None = None

    def __init__(self, n_embd: int, n_head: int, dropout: float, bias: bool = False):
        super().__init__()
        size_of_heads(n_embd, n_head)
        self.n_head, self.dropout = n_head, dropout
        self.query_key_value = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.projection = nn.Linear(n_embd, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        qkv = self.query_key_value(x).view(B, T, 3, self.n_head, C // self.n_head)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, n_head, T, head_size)
        if self.past is not None:
            key, value = self.past.extend(key, value)
        if self.watch is not None:  # the fused kernel never writes its weights down
            self.watch(attention_weights(query, key))
        out = attend(query, key, value, self.dropout if self.training else 0.0)
        return self.projection(out.transpose(1, 2).reshape(B, T, C))


class GPTBlock(nn.Module):
    """A `transformer.PreNormBlock` with dropout, and everything else as GPT has it."""

    positionwise = True  # but for its attention

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        dropout: float,
        bias: bool = False,
        gelu: Approximation = "none",
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(n_embd, bias=bias)
        self.attention = CausalSelfAttention(n_embd, n_head, dropout, bias)
        self.feed_forward_norm = nn.LayerNorm(n_embd, bias=bias)
        self.feed_forward = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd, bias=bias),
            nn.GELU(gelu),
            nn.Linear(4 * n_embd, n_embd, bias=bias),
        )
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        x = x + self.drop_path(self.dropout(self.attention(self.attention_norm(x))))
        return x + self.drop_path(self.dropout(self.feed_forward(self.feed_forward_norm(x))))


class GPT(nn.Module):
    """A decoder-only transformer with GPT-2's initialisation (Radford et al. 2019).

    By default it has no biases, its read-out is a matrix of its own, and its GELU is exact. GPT-2
    itself has biases, shares its read-out with the embedding and approximates GELU by tanh:
    conf/model/gpt2.yaml.
    """

    past: Past | None = None  # counts positions

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: Count,
        n_head: Heads,
        n_embd: Count,
        dropout: BelowOne = 0.0,
        bias: bool = False,
        tied: bool = False,
        gelu: Approximation = "none",
        drop_path: BelowOne = 0.0,
    ):
        super().__init__()
        self.vocab_size, self.block_size = vocab_size, block_size
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(block_size, n_embd)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(
                GPTBlock(n_embd, n_head, dropout, bias, gelu, rate)
                for rate in rising(drop_path, n_layer)
            )
        )
        self.final_norm = nn.LayerNorm(n_embd, bias=bias)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        if tied:  # Press and Wolf 2016, arXiv 1608.05859
            self.lm_head.weight = self.token_embedding.weight
        self._initialise(n_layer)

    def _initialise(self, n_layer: int) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            if parameter.dim() < 2:
                continue  # the norms' gains stay at 1
            # What joins the residual stream is scaled down, so that its variance does not grow
            # with depth. (feed_forward.2 is the second of its two linear layers.)
            into_stream = name.endswith(("projection.weight", "feed_forward.2.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layer) if into_stream else 0.02)

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) with T up to block_size -> logits (B, T, vocab_size)."""
        positions = torch.arange(idx.shape[1], device=idx.device)
        if self.past is not None:
            positions += self.past.pass_by(len(positions))
        x = self.dropout(self.token_embedding(idx) + self.position_embedding(positions))
        return self.lm_head(self.final_norm(self.blocks(x)))
