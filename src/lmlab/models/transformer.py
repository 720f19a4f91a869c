"""From a pile of layers to a transformer: the rungs between a single head and GPT.

`Stack` turns token ids into vectors, lets layers work on them, and reads off logits. A rung is the
layer it is given, so each is a config: conf/model/multi_head.yaml and its neighbours.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from lmlab.bounds import Count, Given
from lmlab.models.memory import Past

# Called with n_embd=..., it makes a module (B, T, C) -> (B, T, C).
Layer = Annotated[Callable[..., nn.Module], Given("n_embd")]


class Stack(nn.Module):
    """Token and position embeddings, `n_layer` layers, and a linear read-out."""

    past: Past | None = None  # counts positions

    def __init__(
        self, vocab_size: int, block_size: int, n_embd: Count, n_layer: Count, layer: Layer
    ):
        super().__init__()
        self.vocab_size, self.block_size = vocab_size, block_size
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(block_size, n_embd)
        self.layers = nn.Sequential(*(layer(n_embd=n_embd) for _ in range(n_layer)))
        self.lm_head = nn.Linear(n_embd, vocab_size)

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) with T up to block_size -> logits (B, T, vocab_size)."""
        positions = torch.arange(idx.shape[1], device=idx.device)
        if self.past is not None:
            positions += self.past.pass_by(len(positions))
        x = self.token_embedding(idx) + self.position_embedding(positions)  # (B, T, C)
        return self.lm_head(self.layers(x))


class FeedForward(nn.Sequential):
    """A moment for each token to think about what it gathered: linear, then ReLU."""

    def __init__(self, n_embd: int):
        super().__init__(nn.Linear(n_embd, n_embd), nn.ReLU())


class WideFeedForward(nn.Sequential):
    """The same with room: four times as wide inside, and projected back."""

    def __init__(self, n_embd: int):
        super().__init__(nn.Linear(n_embd, 4 * n_embd), nn.ReLU(), nn.Linear(4 * n_embd, n_embd))


class Block(nn.Module):
    """Communication, then computation; each replaces what came in."""

    positionwise = True  # but for what its attention does

    def __init__(self, n_embd: int, attention: Layer, feed_forward: Layer):
        super().__init__()
        self.attention = attention(n_embd=n_embd)
        self.feed_forward = feed_forward(n_embd=n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> (B, T, n_embd)."""
        return self.feed_forward(self.attention(x))


class ResidualBlock(Block):
    """Each adds to what came in, so gradients reach the first layer undimmed (He et al. 2015)."""

    positionwise = True

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> (B, T, n_embd)."""
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class PreNormBlock(Block):
    """Each works on a normalised copy of what came in (Xiong et al. 2020)."""

    positionwise = True

    def __init__(self, n_embd: int, attention: Layer, feed_forward: Layer):
        super().__init__(n_embd, attention, feed_forward)
        self.attention_norm = nn.LayerNorm(n_embd)
        self.feed_forward_norm = nn.LayerNorm(n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> (B, T, n_embd)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))
