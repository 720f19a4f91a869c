"""Where a model looks: the weights by which each position gathers from those before it.

A module that gathers declares `watch: Watch | None = None`, and its forward hands over the weights
that it uses, (B, n_head, T, T), while somebody looks:

    if self.watch is not None:
        self.watch(weights)
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lmlab.models.contract import declares
from lmlab.models.inside.torch_inside import lend, take_back, uncompiled

Watch = Callable[[Tensor], None]


@torch.no_grad()
def attention_maps(model: nn.Module, idx: Tensor) -> dict[str, Tensor]:
    """The weights of every layer of a model that gathers, by the layer's name in the model.

    idx (T,) is one passage. Each map is (n_head, T, T) in float32; row t is a distribution over
    positions 0 to t. Modules in a list named `heads` are one layer. A model without such modules
    has no maps. The model should be in eval mode; a forward pass is made.
    """
    maps: dict[str, list[Tensor]] = {}

    def watch(layer: str) -> Watch:
        return lambda weights: maps.setdefault(layer, []).append(weights[0].float())

    watched = {name: m for name, m in model.named_modules() if declares(m, "watch")}
    if not watched:
        return {}
    try:
        for name, module in watched.items():
            lend(module, "watch", watch(name.partition(".heads.")[0]))
        uncompiled(model)(idx[None])
    finally:
        for module in watched.values():
            take_back(module, "watch")
    return {layer: torch.cat(of_heads) for layer, of_heads in maps.items()}
