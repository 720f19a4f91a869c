"""How many floating-point operations a step of training takes, counted and not measured.

A product of matrices (n, k) and (k, m) is 2 n k m operations, as torch's FlopCounterMode has it;
what is done element by element, looked up or normalised is not counted, nor are the optimizer's
update, samples and evaluations. Attention counts whole, the half that the causal mask throws away
with it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn

from lmlab.config import build
from lmlab.config.schema import Train


def flops_per_token(config: Train, vocab_size: int) -> float | None:
    """Operations of the forward and the backward pass for each token of a batch, on average.

    They are about 6 times the parameters in matrices, and 12 n_layer n_embd block_size for
    attention (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); networks that share out the
    windows of a batch count for those that they read.

    Returns:
        None for a model that takes no steps, and for one whose shapes alone do not tell what it
        computes.
    """
    node = json.dumps(config.model, sort_keys=True)
    return _flops_per_token(node, vocab_size, config.data.batch_size, config.data.block_size)


def forward_flops_per_token(
    models: Iterable[nn.Module], batch_size: int, block_size: int
) -> float | None:
    """Operations of the forward passes of models that are asked and not trained, for each token.

    Returns:
        None if the shapes of one alone do not tell what it computes.
    """
    from torch.utils.flop_counter import FlopCounterMode

    idx = torch.zeros(batch_size, block_size, dtype=torch.int64, device="meta")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        for model in models:
            tensors = chain(model.named_parameters(), model.named_buffers())
            shapes = {name: tensor.to("meta") for name, tensor in tensors}
            try:
                torch.func.functional_call(model, shapes, (idx,))
            except Exception:  # somebody else's model may look at values, and there are none
                return None
    return counter.get_total_flops() / idx.numel()


@functools.lru_cache(maxsize=256)  # the jobs of a sweep have few models between them
def _flops_per_token(node: str, vocab_size: int, batch_size: int, block_size: int) -> float | None:
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = build.model(json.loads(node), vocab_size, block_size)
            if not any(p.requires_grad for p in model.parameters()):
                return None
            idx = torch.zeros(batch_size, block_size, dtype=torch.int64)
            with FlopCounterMode(display=False) as counter:
                logits = model(idx)
                F.cross_entropy(logits.flatten(0, 1).float(), idx.flatten()).backward()
    except Exception:  # somebody else's model may look at values, and there are none
        return None
    return counter.get_total_flops() / idx.numel()
