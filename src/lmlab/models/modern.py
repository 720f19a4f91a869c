"""A transformer with what has been found since GPT-2, each part of which can be turned off.

With the defaults of its arguments it is `gpt.GPT`, weight by weight; conf/model/modern.yaml turns
on what pays. Formulas and sources of the smaller parts stand in `parts.py`.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from lmlab.bounds import BelowOne, Count, Divides, NotNegative, Positive
from lmlab.errors import LabError
from lmlab.models.attention import Heads, attention_weights, size_of_heads
from lmlab.models.gpt import attend
from lmlab.models.inside.counts import Counts
from lmlab.models.inside.document_mask import document_mask, numbered
from lmlab.models.maps import Watch
from lmlab.models.memory import Past
from lmlab.models.ngram import Order
from lmlab.models.parts import (
    GELU,
    Dropout,
    DropPath,
    LayerNorm,
    NGrams,
    Norm,
    ShortConv,
    Shortcut,
    Skip,
    ValueResidual,
    rising,
    rotate,
    soft_capped,
    turns,
)
from lmlab.models.transformer import Layer

Positions = Annotated[int, Field(ge=2)]
KeyHeads = Annotated[Count, Divides("n_head")]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
# These weights are zero at first, so that a fresh model is what it would be without them.
ZERO_AT_FIRST = (
    "bigram_embedding.table",
    "trigram_embedding.table",
    "bigram_logits.table",
    "counts.likely",
    "attention.value_embedding",
    "attention.gate",
)


@dataclass
class Shared:
    """What the layers of one forward pass share."""

    idx: Tensor  # (B, T)
    embedded: Tensor  # (B, T, C): what goes into the first layer
    turns: Tensor | None  # complex (T, n_rotated / 2): the rotation of each position
    first_value: Tensor | None = None  # (B, n_kv_head, T, head_size): of the first layer
    outputs: list[Tensor] = field(default_factory=list)  # (B, T, C): of each layer, for skips
    documents: Tensor | None = None  # (B, T or more): of which each position is; None: all of one
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # by the layers' window

    def mask(self, n_queries: int, n_keys: int, window: int | None) -> Tensor | None:
        """Where attention may look, if it stays within documents."""
        if self.documents is None:
            return None
        if window not in self.masks:
            self.masks[window] = document_mask(self.documents, n_queries, n_keys, window)
        return self.masks[window]


class Attention(nn.Module):
    """Causal self-attention; `n_head // n_kv_head` heads share each key and value.

    One key and value for all heads is multi-query attention (Shazeer 2019, arXiv 1911.02150),
    several are grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245). With a `window` a
    position sees itself and the `window - 1` before it (Longformer, Beltagy et al. 2020, arXiv
    2004.05150).
    """

    past: Past | None = None
    watch: Watch | None = None

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_kv_head: int,
        dropout: float,
        window: int | None,
        qk_norm: Norm | None,
        head_gate: bool,
        value_residual: bool,
        value_vocab_size: int | None,
    ):
        super().__init__()
        self.head_size = size_of_heads(n_embd, n_head)
        self.n_head, self.n_kv_head = n_head, n_kv_head
        self.dropout, self.window = dropout, window
        n_heads = n_head + 2 * n_kv_head
        self.query_key_value = nn.Linear(n_embd, n_heads * self.head_size, bias=False)
        self.projection = nn.Linear(n_embd, n_embd, bias=False)
        # Queries and keys of one length: no affinity grows without bound (Henry et al. 2020, arXiv
        # 2010.04245). They are not rotated yet; for an RMSNorm that makes no difference.
        self.qk_norm = None if qk_norm is None else qk_norm(size=self.head_size)
        # A head may find nothing worth handing on (Qiu et al. 2025, arXiv 2505.06708).
        self.gate = nn.Linear(n_embd, n_head, bias=False) if head_gate else None
        self.value_residual = ValueResidual() if value_residual else None
        # What a token has to say whatever surrounds it (modded-nanogpt, 2024).
        self.value_embedding = None
        if value_vocab_size is not None:
            self.value_embedding = nn.Embedding(value_vocab_size, n_kv_head * self.head_size)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        n_head, n_kv_head = self.n_head, self.n_kv_head
        heads = self.query_key_value(x).view(B, T, -1, self.head_size).transpose(1, 2)
        query_key, value = heads.split([n_head + n_kv_head, n_kv_head], dim=1)

        # What is done to queries and keys is done to both at once: (B, n_head + n_kv_head, T, hs).
        if self.qk_norm is not None:
            query_key = self.qk_norm(query_key).to(value.dtype)
        if shared.turns is not None:
            query_key = rotate(query_key, shared.turns)
        query, key = query_key.split([n_head, n_kv_head], dim=1)

        if shared.first_value is None:
            shared.first_value = value
        elif self.value_residual is not None:
            value = self.value_residual(value, shared.first_value)
        if self.value_embedding is not None:
            of_tokens = self.value_embedding(shared.idx).view(B, T, n_kv_head, self.head_size)
            value = value + of_tokens.transpose(1, 2).to(value.dtype)

        if self.past is not None:
            reach = None if self.window is None else self.window - 1
            key, value = self.past.extend(key, value, reach=reach)
        if n_head > n_kv_head:  # one for each head: (B, n_head, T or more, hs)
            key, value = (t.repeat_interleave(n_head // n_kv_head, dim=1) for t in (key, value))
        mask = shared.mask(T, key.shape[-2], self.window)
        if self.watch is not None:  # the fused kernel never writes its weights down
            self.watch(attention_weights(query, key, window=self.window, mask=mask))
        dropout = self.dropout if self.training else 0.0
        out = attend(query, key, value, dropout, self.window, mask)
        out = out.transpose(1, 2)  # (B, T, n_head, hs)
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()[..., None]
        return self.projection(out.reshape(B, T, C))


class ModernBlock(nn.Module):
    """A `gpt.GPTBlock` with ways for what other layers made to come in."""

    positionwise = True  # but for its attention

    def __init__(
        self,
        n_embd: int,
        attention: nn.Module,
        feed_forward: nn.Module,
        norm: Norm,
        dropout: float,
        drop_path: float,
        shortcut: bool,
        skip_from: int | None,
        short_conv: int | None,
    ):
        """`skip_from` is the layer whose output is added."""
        super().__init__()
        self.skip = None if skip_from is None else Skip(skip_from)
        self.shortcut = Shortcut() if shortcut else None
        self.attention_norm = norm(size=n_embd)
        self.attention_conv = None if short_conv is None else ShortConv(n_embd, short_conv)
        self.attention = attention
        self.feed_forward_norm = norm(size=n_embd)
        self.feed_forward_conv = None if short_conv is None else ShortConv(n_embd, short_conv)
        self.feed_forward = feed_forward
        self.dropout = Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        if self.skip is not None:
            x = self.skip(x, shared.outputs)
        if self.shortcut is not None:
            x = self.shortcut(x, shared.embedded)
        normed = self.attention_norm(x)
        if self.attention_conv is not None:
            normed = self.attention_conv(normed, shared.documents)
        x = x + self.drop_path(self.dropout(self.attention(normed, shared)))
        normed = self.feed_forward_norm(x)
        if self.feed_forward_conv is not None:
            normed = self.feed_forward_conv(normed, shared.documents)
        return x + self.drop_path(self.dropout(self.feed_forward(normed)))


class Modern(nn.Module):
    """A decoder-only transformer made of the parts that its config lists.

    `window` is how far each layer sees, a number or None (everything), repeated over the layers.
    `endless` says that generation may go on beyond block_size without reading anything twice: there
    are no learned positions, and every layer has a window.
    """

    past: Past | None = None  # counts positions
    end_of_text: int | None = None  # behind each document; once set, attention stays within one

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: Count,
        n_head: Heads,
        n_embd: Count,
        dropout: BelowOne = 0.0,
        learned_positions: bool = True,
        rope_base: Positive | None = None,
        rope_fraction: PositiveFraction = 1.0,
        norm: Norm = LayerNorm,
        qk_norm: Norm | None = None,
        feed_forward: Layer = GELU,
        n_kv_head: KeyHeads | None = None,
        window: int | list[int | None] | None = None,
        head_gate: bool = False,
        value_residual: bool = False,
        embedding_shortcut: bool = False,
        u_net: bool = False,
        value_embeddings: bool = False,
        bigram_embedding: int | str | None = None,
        bigram_logits: int | str | None = None,
        tied: bool = False,
        soft_cap: Positive | None = None,
        projection_scale: NotNegative = 1.0,
        counts_order: Order | None = None,
        counts_folds: Count = 10,
        temperature: Positive = 1.0,
        attention_dropout: BelowOne | None = None,
        drop_path: BelowOne = 0.0,
        trigram_embedding: int | str | None = None,
        short_conv: Positions | None = None,
    ):
        super().__init__()
        self.vocab_size, self.block_size = vocab_size, block_size
        windows = _windows(window, n_layer)
        self.endless = not learned_positions and None not in windows
        self.rope_base, self.n_rotated = rope_base, 0
        if rope_base is not None:
            self.n_rotated = _n_rotated(size_of_heads(n_embd, n_head), rope_fraction)
        self.u_net = u_net
        if u_net and n_layer < 2:
            raise LabError(f"model.u_net=true with n_layer={n_layer}: it needs two layers or more")

        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(block_size, n_embd) if learned_positions else None
        self.bigram_embedding = _n_grams(
            "bigram_embedding", bigram_embedding, 2, vocab_size, n_embd
        )
        self.trigram_embedding = _n_grams(
            "trigram_embedding", trigram_embedding, 3, vocab_size, n_embd
        )
        self.dropout = Dropout(dropout)
        attention = partial(
            Attention,
            n_embd=n_embd,
            n_head=n_head,
            n_kv_head=_n_kv_head(n_head, n_kv_head),
            dropout=dropout if attention_dropout is None else attention_dropout,
            qk_norm=qk_norm,
            head_gate=head_gate,
            value_vocab_size=vocab_size if value_embeddings else None,
        )
        drop_paths = rising(drop_path, n_layer)
        self.blocks = nn.ModuleList(
            ModernBlock(
                n_embd,
                attention=attention(window=windows[i], value_residual=value_residual and i > 0),
                feed_forward=feed_forward(n_embd=n_embd),
                norm=norm,
                dropout=dropout,
                drop_path=drop_paths[i],
                shortcut=embedding_shortcut,
                skip_from=n_layer - 1 - i if u_net and n_layer - 1 - i < i else None,
                short_conv=short_conv,
            )
            for i in range(n_layer)
        )
        self.final_norm = norm(size=n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        if tied:  # Press and Wolf 2016, arXiv 1608.05859
            self.lm_head.weight = self.token_embedding.weight
        self.bigram_logits = _n_grams("bigram_logits", bigram_logits, 2, vocab_size, vocab_size)
        self.soft_cap, self.temperature = soft_cap, temperature
        self.counts = None
        if counts_order is not None:
            self.counts = Counts(vocab_size, block_size, n_embd, counts_order, counts_folds)
        self._initialise(n_layer, projection_scale)

    def _initialise(self, n_layer: int, projection_scale: float) -> None:
        """GPT-2's, but that what joins the stream is scaled once more; with 0 each block begins as
        the identity (Fixup, Zhang et al. 2019, arXiv 1901.09321)."""
        into_stream = 0.02 / math.sqrt(2 * n_layer) * projection_scale
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # gains stay at 1, and the streams' numbers where they are
            if name.removesuffix(".weight").endswith(ZERO_AT_FIRST):
                nn.init.zeros_(parameter)
            elif name.endswith(("projection.weight", "feed_forward.2.weight")):
                nn.init.normal_(parameter, std=into_stream)
            else:
                nn.init.normal_(parameter, std=0.02)

    def prepare(self, train_tokens: Tensor) -> None:
        """Count, if there are counts to start from; called before the first step."""
        if self.counts is not None:
            self.counts.ngram.fit(train_tokens)

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) -> logits (B, T, vocab_size); T up to block_size if positions are learned."""
        positions = torch.arange(idx.shape[1], device=idx.device)
        documents = None
        if self.past is not None:
            positions += self.past.length
        if self.end_of_text is not None:
            documents = numbered(idx, self.end_of_text, self.past)
        elif self.past is not None:
            self.past.pass_by(len(positions))

        x = self.token_embedding(idx)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        if self.bigram_embedding is not None:
            x = x + self.bigram_embedding(idx)
        if self.trigram_embedding is not None:
            x = x + self.trigram_embedding(idx)
        if self.counts is not None:
            log_probs = self.counts.ngram(idx)
            x = x + self.counts.embed(log_probs)
        x = self.dropout(x)

        rotation = None
        if self.rope_base is not None:
            rotation = turns(positions, self.n_rotated, self.rope_base)
        shared = Shared(idx, x, rotation, documents=documents)
        for block in self.blocks:
            x = block(x, shared)
            if self.u_net:
                shared.outputs.append(x)

        x = self.final_norm(x)
        logits = self.lm_head(x)
        if self.bigram_logits is not None:
            logits = logits + self.bigram_logits(idx)
        if self.soft_cap is not None:
            logits = soft_capped(logits, self.soft_cap)
        if not self.training and self.temperature != 1.0:
            logits = logits / self.temperature
        return logits if self.counts is None else logits + self.counts.weighted(x, log_probs)


def _windows(window: int | list[int | None] | None, n_layer: int) -> list[int | None]:
    """The window of each layer."""
    pattern = window if isinstance(window, list) else [window]
    if not pattern or any(w is not None and w < 1 for w in pattern):
        raise LabError(f"model.window={window}: give numbers of at least 1, or null for everything")
    return [pattern[i % len(pattern)] for i in range(n_layer)]


def _n_kv_head(n_head: int, n_kv_head: int | None) -> int:
    if n_kv_head is not None and (n_kv_head < 1 or n_head % n_kv_head):
        raise LabError(f"model.n_kv_head={n_kv_head}: n_head={n_head} is not divisible by it")
    return n_kv_head or n_head


def _n_rotated(head_size: int, fraction: float) -> int:
    """How many dimensions of a head are rotated; they come in pairs."""
    if head_size % 2:
        raise LabError(
            f"model.rope_base: dimensions are rotated in pairs, and n_embd / n_head = {head_size} "
            "is odd; give an even one, or rope_base=null"
        )
    n_rotated = 2 * int(head_size * fraction / 2)
    if not 0 < n_rotated <= head_size:
        raise LabError(
            f"model.rope_fraction={fraction}: of {head_size} dimensions of a head, {n_rotated} "
            f"would be rotated; give from {2 / head_size:.2g} to 1"
        )
    return n_rotated


def _n_grams(
    key: str, n_rows: int | str | None, order: int, vocab_size: int, width: int
) -> NGrams | None:
    if n_rows is None:
        return None
    n_all = vocab_size**order
    if n_rows != "all" and (isinstance(n_rows, str) or n_rows < 1):
        raise LabError(f"model.{key}={n_rows}: give a number of rows, all ({n_all:,}), or null")
    return NGrams(order, vocab_size, n_all if isinstance(n_rows, str) else n_rows, width)
