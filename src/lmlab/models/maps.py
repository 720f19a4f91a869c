"""Where a model looks: the weights by which each position gathers from those before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lmlab.models.attention import Head, attention_weights
from lmlab.models.averaging import Average, average_by_matmul
from lmlab.models.gpt import CausalSelfAttention


def head_map(head: Head, x: Tensor) -> Tensor:
    """x (B, T, C) -> (B, 1, T, T)."""
    return attention_weights(head.query(x), head.key(x), head.scaled)[:, None]


def fused_maps(attention: CausalSelfAttention, x: Tensor) -> Tensor:
    """x (B, T, C) -> (B, n_head, T, T): what the fused kernel uses and never writes down."""
    B, T, C = x.shape
    qkv = attention.query_key_value(x).view(B, T, 3, attention.n_head, C // attention.n_head)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)
    return attention_weights(query, key)


def average_map(average: Average, x: Tensor) -> Tensor:
    """x (B, T, C) -> (B, 1, T, T), the same whatever x holds."""
    one_hot = torch.eye(x.shape[1], device=x.device).expand(x.shape[0], -1, -1)
    return average_by_matmul(one_hot)[:, None]


MAPS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    Head: head_map,
    CausalSelfAttention: fused_maps,
    Average: average_map,
}


@torch.no_grad()
def attention_maps(model: nn.Module, idx: Tensor) -> dict[str, Tensor]:
    """The weights of every layer of a model that gathers, by the layer's name in the model.

    idx (T,) is one passage. Each map is (n_head, T, T) in float32; row t is a distribution over
    positions 0 to t. A model without such layers has none. The model should be in eval mode; a
    forward pass is made with hooks that are gone afterwards.
    """
    found: dict[str, list[Tensor]] = {}

    def hook(layer: str, weights: Callable[[Any, Tensor], Tensor]) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            found.setdefault(layer, []).append(weights(module, args[0])[0].float())

        return keep

    hooks = []
    for name, module in model.named_modules():
        if type(module) in MAPS:
            layer = name.partition(".heads.")[0]  # the heads of one layer belong together
            hooks.append(module.register_forward_hook(hook(layer, MAPS[type(module)])))
    if not hooks:
        return {}
    try:
        model.forward(idx[None])  # not model(idx): that may be compiled, and hooks would undo it
    finally:
        for handle in hooks:
            handle.remove()
    return {layer: torch.cat(maps) for layer, maps in found.items()}
