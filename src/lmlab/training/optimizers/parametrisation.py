"""How a weight's first size and its learning rate depend on the width of the model.

In the standard parametrisation the best learning rate falls as a model grows wider. In the maximal
update parametrisation (muP; Yang et al. 2022, arXiv 2203.03466) each layer's activations change
equally much in a step at every width, so a rate that was found with a small model holds for a wide
one.

It needs nothing of a model but its parameters. Where the paper multiplies the logits by 1 / width
(its table 8), the read-out's weights and their rate are divided by as much here (its table 3).
Under Adam that trains the same function, since its update does not depend on the size of a
gradient. In the same way a block that is multiplied by 1 / depth is one whose last matrix is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lmlab.bounds import Count
from lmlab.config.build import part
from lmlab.errors import LabError
from lmlab.training.optimizers.muon import Muon
from lmlab.training.optimizers.rules import names_of, roles_of


def parametrisation_of(node: dict[str, Any] | None) -> Parametrisation:
    """The parametrisation of a node; the standard one for a run that was stored without any."""
    if node is None:
        return Standard()
    parametrisation: Parametrisation = part(node, "parametrisation", Parametrisation)
    return parametrisation


# The last matrix of a block's two branches, by the ends of its names in gpt and modern.
INTO_STREAM = ("projection.weight", "feed_forward.2.weight")


@dataclass(frozen=True)
class Factors:
    """What a parameter's first values and its optimizer's numbers are multiplied by."""

    std: float = 1.0
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


class Parametrisation(ABC):
    """What a run multiplies the numbers of its model and its optimizer by."""

    @abstractmethod
    def factors(self, model: nn.Module, config: Mapping[str, Any]) -> dict[nn.Parameter, Factors]:
        """Those of a model's parameters, by its config; a parameter without keeps its numbers.

        Raises:
            LabError: if it does not say how to scale such a model.
        """


class Standard(Parametrisation):
    """Everything as the model and the optimizer have it."""

    def factors(self, model: nn.Module, config: Mapping[str, Any]) -> dict[nn.Parameter, Factors]:
        return {}


class MuP(Parametrisation):
    """The maximal update parametrisation for AdamW, from a base model on.

    For a model w times as wide as the base:

    |             | std      | lr    | weight_decay | eps   |
    |-------------|----------|-------|--------------|-------|
    | embeddings  |          |       |              | 1 / w |
    | matrices    | 1 / √w   | 1 / w | w            | 1 / w |
    | readout     | 1 / w    | 1 / w | w            |       |
    | vectors     |          |       |              | 1 / w |

    torch multiplies the decay by the rate, so its factor keeps what a step takes off a weight equal
    at each width. eps shrinks as the gradients do. The affinities of attention are divided by the
    root of the head size, where muP divides by the head size itself; with heads of one size at
    each width there is no difference but a constant, and so no other size is taken.

    With `base_n_layer`, for a model d times as deep (CompleteP, Dey et al. 2025, arXiv 2505.01618):
    each branch adds 1 / d as much to the stream, so std, lr and 1 / weight_decay of its last matrix
    are divided by d, and eps of its other parameters. (The models draw that last matrix smaller by
    √d already, which is taken into account.)
    """

    def __init__(self, base_n_embd: Count, base_n_head: Count, base_n_layer: Count | None = None):
        """The base is the model whose numbers are as the config has them."""
        self.base_n_embd, self.base_n_head = base_n_embd, base_n_head
        self.base_n_layer = base_n_layer

    def factors(self, model: nn.Module, config: Mapping[str, Any]) -> dict[nn.Parameter, Factors]:
        width, depth = self._width(config), self._depth(config)
        roles = roles_of(model)
        names = {parameter: names[0] for parameter, names in names_of(model).items()}
        in_blocks = {p for p, name in names.items() if name.startswith("blocks.")}
        into_stream = {p for p in in_blocks if names[p].endswith(INTO_STREAM)}
        if depth != 1 and not into_stream:
            raise LabError(
                f"parametrisation.base_n_layer={self.base_n_layer}: no weight of "
                f"{config['_target_']} is called blocks.*.{INTO_STREAM[0]}, so what its blocks add "
                "cannot be scaled; give null, and depth changes nothing"
            )
        factors = {}
        for parameter, name in names.items():
            factors[parameter] = _by_width(roles[parameter], width, name)
            if parameter in in_blocks:
                is_last = parameter in into_stream
                factors[parameter] = _by_depth(factors[parameter], depth, is_last)
        return factors

    def _width(self, config: Mapping[str, Any]) -> float:
        """How many times as wide as the base a model is."""
        n_embd, n_head = (self._needed(config, key) for key in ("n_embd", "n_head"))
        if n_embd * self.base_n_head != self.base_n_embd * n_head:
            raise LabError(
                f"parametrisation.base_n_head={self.base_n_head}: the base has heads of "
                f"{self.base_n_embd / self.base_n_head:g}, the model of {n_embd / n_head:g}; give "
                "both the same, so that a wider model has more heads"
            )
        return n_embd / self.base_n_embd

    def _depth(self, config: Mapping[str, Any]) -> float:
        if self.base_n_layer is None:
            return 1.0
        return self._needed(config, "n_layer") / self.base_n_layer

    def _needed(self, config: Mapping[str, Any], key: str) -> int:
        value = config.get(key)
        if not isinstance(value, int):
            raise LabError(
                f"parametrisation: {config['_target_']} has no {key} to be compared with "
                f"base_{key}; choose a model that has one, such as gpt, or parametrisation=standard"
            )
        return value


def _by_width(roles: set[str], w: float, name: str) -> Factors:
    if roles == {"embeddings", "readout"}:
        raise LabError(
            f"parametrisation: {name} is embedding and read-out in one, and they scale otherwise; "
            "give model.tied=false, or parametrisation=standard"
        )
    if "readout" in roles:
        return Factors(std=1 / w, lr=1 / w, weight_decay=w)
    if "matrices" in roles:
        return Factors(std=1 / math.sqrt(w), lr=1 / w, weight_decay=w, eps=1 / w)
    return Factors(eps=1 / w)


def _by_depth(by_width: Factors, d: float, is_last: bool) -> Factors:
    if not is_last:
        return replace(by_width, eps=by_width.eps / d)
    return replace(
        by_width,
        std=by_width.std / math.sqrt(d),
        lr=by_width.lr / d,
        weight_decay=by_width.weight_decay * d,
    )


@torch.no_grad()
def scale_weights(factors: Mapping[nn.Parameter, Factors]) -> None:
    """Multiply freshly drawn weights."""
    for parameter, its_factors in factors.items():
        if its_factors.std != 1:
            parameter.mul_(its_factors.std)


def scale_groups(optimizer: Optimizer, factors: Mapping[nn.Parameter, Factors], key: str) -> None:
    """Multiply the numbers of an optimizer's parameter groups, each of which has one kind.

    Raises:
        LabError: naming the optimizer, which stands at `key`, if it needs other factors than AdamW.
    """
    for group in optimizer.param_groups:
        its_factors = factors.get(group["params"][0], Factors())
        numbers: tuple[str, ...] = ("lr", "weight_decay", "eps")
        if type(optimizer) is torch.optim.AdamW:
            pass
        elif type(optimizer) is not Muon:
            raise LabError(
                f"parametrisation: rates are scaled as AdamW's have to be, not as those of "
                f"{type(optimizer).__name__} ({key}); give optimizer=adamw, optimizer=muon or "
                "parametrisation=standard"
            )
        elif group["adjust_lr_fn"] == "match_rms_adamw":
            numbers = ("lr", "weight_decay")
        else:  # its update is as large a change at every width
            numbers = ()
        for number in numbers:
            group[number] *= getattr(its_factors, number)
