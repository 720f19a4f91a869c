"""What an evaluation adds up, and the figures that come of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.data.evals import EvalBatch
from lmlab.data.windows import shift


def add(
    sums: dict[str, Tensor],
    batch: EvalBatch,
    model: nn.Module,
    characters: Tensor,
    bytes_: Tensor,
) -> None:
    """Add what `model` predicts of a batch to the sums by metric: nats, tokens, characters, bytes
    (4,). `characters` and `bytes_` (vocab_size,) are how many a token stands for."""
    idx, targets = shift(batch.windows)
    logits = model(idx)
    nll = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    places = torch.arange(idx.shape[1], device=idx.device)
    counted = (places >= idx.shape[1] - batch.counted[:, None]).flatten()  # (n * T,)
    # Sums over a whole split want float64, which Apple's GPUs lack.
    dtype = torch.float32 if idx.device.type == "mps" else torch.float64
    ids = targets.flatten()[counted]
    amounts = nll[counted], counted, characters[ids], bytes_[ids]
    own = torch.stack([amount.to(dtype).sum() for amount in amounts])
    sums[batch.metric] = sums.get(batch.metric, torch.zeros_like(own)) + own


def means(sums: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Nats per token by metric, and those of val in bits per character and per byte: val/bpc and
    val/bpb of val/loss, val/bpc_full and val/bpb_full of val/loss_full."""
    metrics = {name: nats / n_tokens for name, (nats, n_tokens, _, _) in sums.items()}
    for name in metrics.keys() & {"val/loss", "val/loss_full"}:
        # Over the characters and the bytes that a token stands for.
        _, n_tokens, *amounts = sums[name]
        for unit, amount in zip(("bpc", "bpb"), amounts, strict=True):
            if amount:  # none, where nobody knows what ids stand for
                in_bits = metrics[name] / math.log(2) / (amount / n_tokens)
                metrics[name.replace("loss", unit)] = in_bits
    return metrics
