"""Dynamic evaluation: the loss of a model that goes on learning from the text it is asked about."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from lmlab.console import count_progress
from lmlab.data.evals import FullEval
from lmlab.data.windows import full_pass, shift
from lmlab.errors import LabError

METRIC = "val/loss_dynamic"
CLIP_NORM = 1.0


def check_learns(model: nn.Module, key: str) -> None:
    """Raises LabError if nothing in a model does."""
    if not any(p.requires_grad for p in model.parameters()):
        raise LabError(f"{key}: {type(model).__name__} has nothing that learns")


def dynamic_loss(
    model: nn.Module,
    full: FullEval,
    device: torch.device,
    lr: float,
    clip_norm: float = CLIP_NORM,
    between: Callable[[], None] = lambda: None,
) -> float:
    """Nats per token of val, read in its order, `full.stride` tokens at a time (Krause et al. 2018,
    arXiv 1709.07432).

    Each piece is predicted first, and then a step of gradient descent is taken on it, in float32 or
    as the weights are, without dropout: `lr` times the gradient of its mean loss, whose norm is
    clipped. So every token but the first is predicted once, by a model that has learned from those
    before it and from none behind. It is a copy that learns. `between` is called before each piece.
    """
    model = copy.deepcopy(model).eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr)
    total, n_tokens = 0.0, len(full.tokens) - 1
    pieces = full_pass(full.tokens.to(device), full.block_size, full.stride, batch_size=1)
    with count_progress("dynamic evaluation", n_tokens, "tokens") as advance:
        for windows, counted in pieces:
            between()
            n = int(counted)
            idx, targets = shift(windows)
            logits = model(idx)[0, -n:]
            loss = F.cross_entropy(logits.float(), targets[0, -n:])
            total += loss.item() * n
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, clip_norm)
            optimizer.step()
            advance(n)
    return total / n_tokens
