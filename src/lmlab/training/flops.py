"""How many floating-point operations a step of training takes, counted and not measured."""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
import torch.nn.functional as F

from lmlab.config import build


def flops_per_token(config: dict[str, Any], vocab_size: int) -> float | None:
    """Operations of the forward and the backward pass, for each token of a window.

    A product of matrices (n, k) and (k, m) is 2 n k m operations, as torch's FlopCounterMode has
    it; what is done element by element, looked up or normalised is not counted, nor is the
    optimizer's update. Attention counts whole, the half that the causal mask throws away with it.
    So it is about 6 times the parameters in matrices, and 12 n_layer n_embd block_size for
    attention (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).

    Returns:
        None for a model that takes no steps, and for one whose shapes alone do not tell what it
        computes.
    """
    shape = {"model": config["model"], "block_size": config["data"]["block_size"]}
    return _flops_per_token(json.dumps(shape, sort_keys=True), vocab_size)


@functools.lru_cache(maxsize=256)  # the jobs of a sweep have few models between them
def _flops_per_token(shape: str, vocab_size: int) -> float | None:
    from torch.utils.flop_counter import FlopCounterMode

    described = json.loads(shape)
    config = {"model": described["model"], "data": {"block_size": described["block_size"]}}
    block_size: int = described["block_size"]
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = build.model(config, vocab_size)
            if not any(p.requires_grad for p in model.parameters()):
                return None
            idx = torch.zeros(1, block_size, dtype=torch.int64)
            with FlopCounterMode(display=False) as counter:
                logits = model(idx)
                F.cross_entropy(logits.flatten(0, 1).float(), idx.flatten()).backward()
    except Exception:  # somebody else's model may look at values, and there are none
        return None
    return counter.get_total_flops() / block_size
