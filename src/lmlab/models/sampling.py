"""Text from a model, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.errors import LabError
from lmlab.models.contract import Hooks
from lmlab.models.inside.torch_inside import uncompiled
from lmlab.models.memory import Memory


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
    if temperature != 1:
        logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    probs = F.softmax(logits, dim=-1)
    if top_p is not None and top_p < 1:
        ordered, order = probs.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # held by the tokens likelier than this one
        ordered = ordered.masked_fill((before >= top_p) & (before > 0), 0.0)  # the first is kept
        probs = torch.zeros_like(probs).scatter(-1, order, ordered)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


def generate(
    model: nn.Module,
    idx: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Iterator[Tensor]:
    """Continue idx (B, T), one token (B, 1) at a time, as they are sampled.

    The model, which should be in eval mode, sees the last block_size tokens. Up to there a model
    that can is given only what is new (`models.memory`). Beyond, every token has another place in
    the window and all is computed anew, as it is for models that cannot. A model that is `endless`
    goes on beyond: it reads all tokens, each once, and keeps what its own windows reach.

    `generator=None` is torch's default generator. With a generator for each sequence, a sequence
    does not depend on how many others are sampled beside it.
    """
    block_size: Any = model.block_size
    hooks, memory = Hooks.of(model), Memory.of(model)
    sees = block_size if hooks.sees is None else hooks.sees
    forward, n_read = uncompiled(model), 0
    for _ in range(max_new_tokens):
        with torch.no_grad():  # around the function, it would cost a token as much as drawing it
            if memory is not None and (hooks.endless or idx.shape[1] <= block_size):
                with memory:
                    for new in idx[:, n_read:].split(block_size, dim=1):
                        logits = forward(new)[:, -1]  # (B, vocab_size)
                n_read = idx.shape[1]
            else:
                logits = forward(idx[:, -sees:])[:, -1]
            token = _next(logits.float(), temperature, top_k, top_p, generator).to(idx.device)
            idx = torch.cat([idx, token], dim=1)
        yield token


def _next(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> Tensor:
    """A token (B, 1) by the logits (B, vocab_size) of each row.

    Raises:
        LabError: if they are no numbers.
    """
    if not logits.amax(-1).isfinite().all():  # the largest of a row is NaN where any is
        raise LabError("the model's logits are NaN or infinite: there is nothing to draw from")
    return _draw(probabilities(logits, temperature, top_k, top_p), generator)


def _draw(probs: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """A token (B, 1) for each row of probs (B, vocab_size)."""
    if generator is None or isinstance(generator, torch.Generator):
        # Drawn where the generator is: the same text whatever computed the logits.
        probs = probs if generator is None else probs.to(generator.device)
        return torch.multinomial(probs, 1, generator=generator)
    probs = probs.to(generator[0].device)
    rows = zip(probs, generator, strict=True)
    return torch.stack([torch.multinomial(row, 1, generator=source) for row, source in rows])
