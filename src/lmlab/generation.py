"""Logits to text."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.data.tokenizer import Tokenizer


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """What to sample from: logits (B, vocab_size) -> probabilities (B, vocab_size).

    `temperature` divides the logits; 0 leaves only the likeliest token. `top_k` keeps the k
    likeliest, `top_p` the fewest likeliest that together hold that much probability (nucleus
    sampling, Holtzman et al. 2020).
    """
    if temperature < 1e-20:  # 0, or so little that dividing by it could overflow
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    probs = F.softmax(logits, dim=-1)
    if top_p is not None and top_p < 1:
        ordered, order = probs.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # held by the tokens likelier than this one
        ordered = ordered.masked_fill(before >= top_p, 0.0)
        probs = torch.zeros_like(probs).scatter(-1, order, ordered)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


@torch.no_grad()
def generate(
    model: nn.Module,
    idx: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Continue idx (B, T), one token (B, 1) at a time, as they are sampled.

    The model, which should be in eval mode, sees the last block_size tokens. `generator=None` is
    torch's default generator.
    """
    block_size: Any = model.block_size
    for _ in range(max_new_tokens):
        logits = model(idx[:, -block_size:])[:, -1]  # (B, vocab_size)
        probs = probabilities(logits.float(), temperature, top_k, top_p)
        if generator is not None:
            probs = probs.to(generator.device)  # the same text whatever computed the logits
        token = torch.multinomial(probs, 1, generator=generator).to(idx.device)
        idx = torch.cat([idx, token], dim=1)
        yield token


def stream_text(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Text of tokens as they come; a character cut in two by tokens waits for its other half."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if text := decoder.decode(tokenizer.token_bytes(token)):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest
