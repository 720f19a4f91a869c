"""The first checkpoint of a run that begins from another run's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lmlab.config import build, schema
from lmlab.config.check import check_plain
from lmlab.config.fingerprint import leaves
from lmlab.config.stored import with_todays_defaults
from lmlab.console import say
from lmlab.data.datamodule import TextDataModule
from lmlab.errors import LabError
from lmlab.runs.checkpoint import BESIDE, is_weights_alone
from lmlab.runs.contents import (
    check_callbacks,
    check_continuable,
    check_optimizer_state,
    check_weights,
    weights_of,
)
from lmlab.runs.spent import KEY as SPENT
from lmlab.runs.spent import Spent
from lmlab.training.beginning.restored import check_beside
from lmlab.training.module import LanguageModule

# What an optimizer has gathered stays good when these change.
TUNED = {"lr", "weight_decay", "betas", "eps", "alpha", "fused", "foreach"}
Shapes = tuple[tuple[int, ...], tuple[int, ...]]  # of a tensor, before and now

STREAMS = ("seed", "streams", "trainer.devices")  # while these are alike, the same streams go on


def cropped(parent: dict[str, Any], module: LanguageModule) -> dict[str, Any]:
    """A parent's checkpoint for a model that reads fewer tokens at a time.

    Whatever has a place for each token of a window, such as learned positions or a mask, keeps the
    first places; so do the averaged weights and what the optimizer has gathered.
    """
    shapes = _shapes_by_block_size(parent, module)
    if not shapes:
        return parent
    cropped = dict(parent)
    cropped["state_dict"] = {
        name: _crop(value, shapes.get(name.removeprefix("model.")))
        for name, value in parent["state_dict"].items()
    }
    for key in BESIDE:
        if beside := parent.get(key):
            weights = {name: _crop(w, shapes.get(name)) for name, w in beside["weights"].items()}
            cropped[key] = {**beside, "weights": weights}
    optimizer = module.fresh_optimizer()
    names = {p: name for name, p in module.model.named_parameters()}
    order = [names.get(p, "") for group in optimizer.param_groups for p in group["params"]]
    cropped["optimizer_states"] = [
        {**old, "state": {i: _crop_state(of, i, order, shapes) for i, of in old["state"].items()}}
        for old in parent["optimizer_states"]
    ]
    return cropped


def _shapes_by_block_size(parent: dict[str, Any], module: LanguageModule) -> dict[str, Shapes]:
    """The tensors of a model that are smaller for its smaller block_size alone, by name: its own
    shapes are compared with those that it has for the parent's block_size."""
    config = module.config
    assert config is not None
    parents, own = parent["config"]["data"]["block_size"], config.data.block_size
    if own >= parents:
        return {}
    with torch.random.fork_rng(devices=[]):
        longer = build.model(config.model, len(module.characters), parents).state_dict()
    shapes = {}
    for name, value in module.model.state_dict().items():
        before, now = tuple(longer[name].shape) if name in longer else (), tuple(value.shape)
        differ = [pair for pair in zip(before, now, strict=False) if pair[0] != pair[1]]
        if len(before) == len(now) and differ and set(differ) == {(parents, own)}:
            shapes[name] = before, now
    return shapes


def _crop(value: Tensor, shapes: Shapes | None) -> Tensor:
    """The first places of a tensor, in each dimension that has as many as its weight had."""
    if shapes is None or value.dim() != len(shapes[0]):
        return value
    places = zip(value.shape, *shapes, strict=True)
    return value[tuple(slice(now if n == before else n) for n, before, now in places)].clone()


def _crop_state(
    state: dict[str, Any], i: int, order: list[str], shapes: dict[str, Shapes]
) -> dict[str, Any]:
    """What an optimizer has gathered of its i-th parameter."""
    of_parameter = shapes.get(order[i]) if i < len(order) else None
    return {
        key: _crop(value, of_parameter) if isinstance(value, Tensor) else value
        for key, value in state.items()
    }


def fitted(
    parent: dict[str, Any], module: LanguageModule, callbacks: Sequence[L.Callback]
) -> dict[str, Any]:
    """A parent's checkpoint as a model can go on with it: see `cropped`.

    Raises:
        LabError: naming the first weight that does not fit, or another part that does not.
    """
    try:
        check_continuable(parent)
        check_plain(with_todays_defaults(parent["config"]), schema.Train, parts=())
    except LabError as error:
        raise LabError(f"from: of the parent's checkpoint, {error}") from error
    if parent["tokenizer"] != module.about["tokenizer"]:
        raise LabError("from: the parent has another tokenizer, so its ids mean something else")
    parent = cropped(parent, module)
    before, now = (
        {name: str(tuple(weight.shape)) for name, weight in weights.items()}
        for weights in (weights_of(parent), module.model.state_dict())
    )
    for name in sorted(before.keys() | now.keys()):
        shapes = [of.get(name, "missing") for of in (before, now)]
        if shapes[0] != shapes[1]:
            raise LabError(
                f"from: the parent's weights do not fit this model: {name} {shapes[0]} is now "
                f"{shapes[1]}"
            )
    if not any(p.requires_grad for p in module.model.parameters()):
        raise LabError("from: a model without parameters takes no steps to go on with")
    try:
        check_weights(weights_of(parent), module.model)
        check_beside(parent, module.model)
        if _same_optimizer(parent, module):
            check_optimizer_state(parent["optimizer_states"], module.fresh_optimizer)
        check_callbacks(parent["callbacks"], [c for c in callbacks if _keeps_its_state(c)])
    except LabError as error:
        raise LabError(f"from: of the parent's checkpoint, {error}") from error
    return parent


def first_checkpoint(
    parent: dict[str, Any],
    module: LanguageModule,
    data: TextDataModule,
    callbacks: Iterable[L.Callback],
    spent: Spent,
) -> dict[str, Any]:
    """A parent's checkpoint as the new run's own, at the same step.

    Weights and the step are the parent's, and so is what was `spent` up to there. What the
    optimizer has gathered is kept where the update rule is the same; rates and decay are the new
    config's. Streams of random numbers go on if the seed is the parent's and begin anew if it is
    not. Of callbacks, those that are not lmlab's keep their state: the best loss, say, is the new
    run's own.
    """
    state_dict, optimizer_state = _state_dict(parent, module), _optimizer_state(parent, module)
    configs = module.about["config"], with_todays_defaults(parent["config"])
    now, before = (dict(leaves(config)) for config in configs)
    same_streams = all(now[key] == before.get(key) for key in STREAMS)
    same_windows = same_streams and now["data.order"] == before["data.order"]
    if now["data.order"] != "random":  # windows are counted: those of one text, of one length
        same_text = parent["corpus_sha256"] == module.about["corpus_sha256"]
        same_length = now["data.block_size"] == before["data.block_size"]
        same_windows = same_windows and same_text and same_length
    # One that took no steps has no stream to go on with, and no optimizer.
    stream = data.begun(parent.get("TextDataModule", {}) if same_windows else {})
    n_since_log = parent["global_step"] % module.log_every
    kept = {c.state_key for c in callbacks if _keeps_its_state(c)}
    return {
        **parent,
        **module.about,
        "state_dict": state_dict,
        "optimizer_states": [optimizer_state],
        "TextDataModule": {**stream, "step": parent["global_step"]},
        "random": parent["random"] if same_streams else None,
        "callbacks": {k: v for k, v in parent["callbacks"].items() if k in kept},
        # The losses that the next point of train/loss is a mean of, as far as the parent has them.
        "since_log": parent["since_log"][-n_since_log:] if n_since_log else [],
        "trains": False,  # with another rate or precision, that is to be seen again
        SPENT: spent.model_dump(),
    }


def _keeps_its_state(callback: L.Callback) -> bool:
    return not type(callback).__module__.startswith("lmlab.")


def _state_dict(parent: dict[str, Any], module: LanguageModule) -> dict[str, Tensor]:
    """The parent's model, and of what is trained beside it what the parent has, too."""
    mine = {name: w for name, w in module.state_dict().items() if not name.startswith("model.")}
    its = parent["state_dict"]
    fits = {n: n in its and its[n].shape == w.shape for n, w in mine.items()}
    models = {name: w for name, w in its.items() if name.startswith("model.")}
    return {**models, **{name: its[name] if fits[name] else w for name, w in mine.items()}}


def _optimizer_state(parent: dict[str, Any], module: LanguageModule) -> dict[str, Any]:
    """The state of the new run's optimizer: its own groups, with what the parent's gathered."""
    new = module.fresh_optimizer().state_dict()
    if _same_optimizer(parent, module):
        new["state"] = parent["optimizer_states"][0]["state"]
    elif parent["optimizer_states"]:
        say("from: the optimizer is another one and begins afresh")
    elif is_weights_alone(parent):
        say("from: the parent kept weights alone; the optimizer and the windows begin afresh")
    return new


def _same_optimizer(parent: dict[str, Any], module: LanguageModule) -> bool:
    """Whether what a parent's optimizer gathered is of use to this one."""
    before, now = parent["config"]["optimizer"], module.about["config"]["optimizer"]
    if not parent["optimizer_states"] or not isinstance(before, dict):
        return False
    if _what_gathers(before) != _what_gathers(now):
        return False
    old, new = parent["optimizer_states"][0], module.fresh_optimizer().state_dict()
    members = [[group["params"] for group in state["param_groups"]] for state in (old, new)]
    return members[0] == members[1]


def _what_gathers(optimizer: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What decides which state an optimizer gathers of which parameters, its rules in order."""
    settings = {
        key: value
        for key, value in leaves(optimizer)
        if key.rpartition(".")[2] not in TUNED and not re.match(r"rules\.[^.]+\.schedule", key)
    }
    return settings, list(optimizer.get("rules") or {})
