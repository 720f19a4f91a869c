"""The first checkpoint of a run that begins from another run's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L

from lmlab import schema
from lmlab.conf import with_todays_defaults
from lmlab.config import check_plain
from lmlab.console import say
from lmlab.data.datamodule import TextDataModule
from lmlab.errors import LabError
from lmlab.fingerprint import leaves
from lmlab.training import ema
from lmlab.training.contents import (
    check_callbacks,
    check_continuable,
    check_optimizer,
    check_weights,
    weights_of,
)
from lmlab.training.module import LanguageModule

# With another value of these, what an optimizer has gathered is as good as before.
TUNED = {"lr", "weight_decay", "betas", "eps", "alpha", "fused", "foreach"}
STREAMS = ("seed", "streams", "trainer.devices")  # with these alike, the same streams go on


def check_parent(
    parent: dict[str, Any], module: LanguageModule, callbacks: Sequence[L.Callback]
) -> None:
    """Whether a model can go on with a parent's checkpoint.

    Raises:
        LabError: naming the first weight that does not fit, or another part that does not.
    """
    try:
        check_continuable(parent)
        check_plain(with_todays_defaults(parent["config"]), schema.Train)
    except LabError as error:
        raise LabError(f"from: of the parent's checkpoint, {error}") from error
    if parent["tokenizer"] != module.about["tokenizer"]:
        raise LabError("from: the parent has another tokenizer, so its ids mean something else")
    theirs = {
        name: tuple(value.shape)
        for name, value in parent["state_dict"].items()
        if name.startswith("model.")
    }
    ours = {f"model.{name}": tuple(v.shape) for name, v in module.model.state_dict().items()}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise LabError(
                f"from: the parent's weights do not fit this model: "
                f"{name.removeprefix('model.')} {_shape(theirs, name)} is now {_shape(ours, name)}"
            )
    if not any(p.requires_grad for p in module.model.parameters()):
        raise LabError("from: a model without parameters takes no steps to go on with")
    try:
        check_weights(weights_of(parent), module.model)
        if parent.get(ema.KEY) is not None:
            check_weights(parent[ema.KEY]["weights"], module.model)
        if _same_optimizer(parent, module):
            check_optimizer(parent["optimizer_states"], module.fresh_optimizer)
        check_callbacks(parent["callbacks"], [c for c in callbacks if _keeps_its_state(c)])
    except LabError as error:
        raise LabError(f"from: of the parent's checkpoint, {error}") from error


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return str(shapes[name]) if name in shapes else "missing"


def first_checkpoint(
    parent: dict[str, Any],
    module: LanguageModule,
    data: TextDataModule,
    callbacks: Iterable[L.Callback],
) -> dict[str, Any]:
    """A parent's checkpoint as the new run's own, at the same step.

    Weights and the step are the parent's. What the optimizer has gathered is kept where the update
    rule is the same; rates and decay are the new config's. Streams of random numbers go on if the
    seed is the parent's and begin anew if it is not. Of callbacks, those that are not lmlab's keep
    their state: the best loss, say, is the new run's own.
    """
    now, before = (dict(leaves(c)) for c in (module.about["config"], parent["config"]))
    same_streams = all(now[key] == before.get(key) for key in STREAMS)
    # One that took no steps has no stream to go on with, and no optimizer.
    stream = parent.get("TextDataModule", {}) if same_streams else {}
    if not stream:
        stream = {"generator": data.generator.get_state(), "world_size": None}
    kept = {c.state_key for c in callbacks if _keeps_its_state(c)}
    return {
        **parent,
        **module.about,
        "optimizer_states": [_optimizer_state(parent, module)],
        "TextDataModule": {**stream, "step": parent["global_step"]},
        "random": parent["random"] if same_streams else None,
        "callbacks": {k: v for k, v in parent["callbacks"].items() if k in kept},
        "since_log": [],
    }


def _keeps_its_state(callback: L.Callback) -> bool:
    return not type(callback).__module__.startswith("lmlab.")


def _optimizer_state(parent: dict[str, Any], module: LanguageModule) -> dict[str, Any]:
    """The state of the new run's optimizer: its own groups, with what the parent's gathered."""
    new = module.fresh_optimizer().state_dict()
    if _same_optimizer(parent, module):
        new["state"] = parent["optimizer_states"][0]["state"]
    elif parent["optimizer_states"]:
        say("from: the optimizer is another one and begins afresh")
    return new


def _same_optimizer(parent: dict[str, Any], module: LanguageModule) -> bool:
    """Whether what a parent's optimizer gathered is of use to this one."""
    before, now = parent["config"]["optimizer"], module.about["config"]["optimizer"]
    if not parent["optimizer_states"] or _what_gathers(before) != _what_gathers(now):
        return False
    old, new = parent["optimizer_states"][0], module.fresh_optimizer().state_dict()
    members = [[group["params"] for group in state["param_groups"]] for state in (old, new)]
    return members[0] == members[1]


def _what_gathers(optimizer: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What decides which state an optimizer gathers of which parameters, its rules in order."""
    found = {
        key: value
        for key, value in leaves(optimizer)
        if key.rpartition(".")[2] not in TUNED and not re.match(r"rules\.[^.]+\.schedule", key)
    }
    return found, list(optimizer.get("rules") or {})
