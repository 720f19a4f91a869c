"""What TensorBoard shows of a run besides its curves: hyperparameters, charts, texts."""

from __future__ import annotations

import functools
import html
import io
import re
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import yaml

from lmlab.config.fingerprint import value_at
from lmlab.config.stored import conf_dir
from lmlab.config.targets import named
from lmlab.display.for_tensorboard.tensorboard_inside import (
    hparams_columns,
    hparams_end,
    hparams_row,
)
from lmlab.errors import LabError
from lmlab.models.contract import Hooks, n_head
from lmlab.runs.record import Dumper

if TYPE_CHECKING:
    from PIL.Image import Image
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch import nn

# The metrics of the HParams tab: tags, of which the last value is shown. Five are ticked at first;
# the parallel coordinates leave out a run that lacks one that is ticked (a run that was cut short
# has no full pass).
METRICS = (
    "val/loss_full",
    "val/loss_best",
    "val/loss",
    "train/loss",
    "train/seconds",
    "val/bpc_full",
)

# The hyperparameters that are ticked at first: those that most models have, for the same reason.
SHOWN_FIRST = ("model", "parameters", "block_size", "lr", "seed")

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed")

# The charts of the Custom Scalars tab: by category, then chart, the tags as regular expressions.
CHARTS = {
    "loss": {
        "train and val loss by step": ["Multiline", [r"^train/loss$", r"^val/loss$"]],
        "train and val loss by tokens seen": ["Multiline", [r"^vs_tokens/(train|val)/loss$"]],
        "val loss by milliseconds": ["Multiline", [r"^vs_milliseconds/val/loss$"]],
        "val loss by floating-point operations": ["Multiline", [r"^vs_flops/val/loss$"]],
        "generalisation gap: val/loss - train/loss_eval": ["Multiline", [r"^val/loss_gap$"]],
    },
    "learning rate and throughput": {
        "learning rate": ["Multiline", [r"^train/lr(/.+)?$"]],
        "tokens per second": ["Multiline", [r"^train/tokens_per_second$"]],
    },
}

# Where a run is kept, not what it is.
NOT_SHOWN = ("output_dir", "run", "run_dir", "resume", "pause_at", "dry_run", "sweep")

NONE = "none"  # a text that does not apply
LINE = 200  # characters of a line of text, which TensorBoard does not wrap
WHITE_SPACE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}

Value = str | float


def hyperparameters(
    config: dict[str, Any], tokenizer: str | None = None, model: nn.Module | None = None
) -> dict[str, Value | None]:
    """The row of a run in the HParams tab: the same columns, each of one type, for every run.

    None is an empty cell: what does not apply (a bigram's layers, the learning rate of a count
    table) or is not known, as in a config that was refused. A 0 there would take away the
    logarithmic scale of its column. Of a run that was refused there is no `model`, and any value of
    `config` may be missing or nonsense.
    """
    at = partial(value_at, config)
    node = at("model")
    counts = _counts(at("model._target_")) if model is None else Hooks.of(model).fit is not None
    heads = [*_values(node, "n_head"), None if model is None else n_head(model)]
    n_parameters = 0 if model is None else sum(p.numel() for p in model.parameters())
    return {
        "name": _text(config.get("name")),
        "model": _model(node),
        "n_layer": _number(at("model.n_layer")),
        "n_head": _number(next((n for n in heads if n is not None), None)),
        "n_embd": _number(at("model.n_embd")),
        "dropout": _number(at("model.dropout")),
        "parameters": _number(n_parameters or None),
        "block_size": _number(at("data.block_size")),
        "batch_size": _number(at("data.batch_size")),
        "optimizer": NONE if counts else _optimizer(at("optimizer")),
        "lr": None if counts else _number(at("optimizer.lr")),
        "weight_decay": None if counts else _number(at("optimizer.weight_decay")),
        "schedule": NONE if counts else _name(at("schedule")),
        "max_steps": None if counts else _number(at("trainer.max_steps")),
        "precision": _text(at("trainer.precision")),
        "seed": _number(config.get("seed")),
        "tokenizer": tokenizer or _tokenizer(at("tokenizer._target_")),
        "corpus": _corpus(at("corpus")),
    }


def _optimizer(node: Any) -> str:
    """`AdamW`, or with rules `Muon + AdamW`: those of the rules, then the one of the rest."""
    rules = value_at(node, "rules")
    rules = list(rules.values()) if isinstance(rules, dict) else []
    rules = [rule for rule in rules if value_at(rule, "_target_") is not None]
    return " + ".join(dict.fromkeys(map(_name, [*rules, node])))


def _name(node: Any) -> str:
    return _text(value_at(node, "_target_")).rpartition(".")[2]


def _model(node: Any) -> str:
    """A model by the name of its class; a stack of layers by that of the layer."""
    layer = value_at(node, "layer")
    return _name(layer if value_at(layer, "_target_") is not None else node)


def _counts(target: Any) -> bool:
    """Whether a model that was not made would count instead of descending."""
    try:
        return Hooks.of(named(str(target))).fit is not None
    except LabError:
        return False


def _tokenizer(target: Any) -> str:
    try:
        return str(resolve_name(target).kind)
    except Exception:  # whatever a name that was refused leads to
        return _text(target).rpartition(".")[2]


def _values(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, at any depth."""
    if isinstance(node, dict):
        for name, child in node.items():
            if name == key:
                yield child
            yield from _values(child, key)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None


def _text(value: Any) -> str:
    return NONE if value is None else str(value)


def _corpus(node: Any) -> str:
    path = value_at(node, "path")
    return Path(path).name if _name(node) == "from_files" and isinstance(path, str) else _name(node)


@functools.cache
def values_of_columns() -> dict[str, list[str]]:
    """By column of text, the values that can be unticked beside the table, as conf/ offers them.

    There may be others: a file of one's own, or a class that is in no YAML of conf/.
    """

    def offered(group: str) -> list[dict[str, Any]]:
        paths = sorted((conf_dir() / group).glob("*.yaml"))
        return [yaml.safe_load(path.read_text("utf-8")) for path in paths]

    def distinct(names: Iterable[str], *more: str) -> list[str]:
        return [*dict.fromkeys([*names, *more])]

    return {
        "model": distinct(map(_model, offered("model"))),
        "optimizer": distinct(map(_optimizer, offered("optimizer")), "none"),
        "schedule": distinct(map(_name, offered("schedule")), "none"),
        "precision": [*PRECISIONS],
        "tokenizer": distinct(resolve_name(t["_target_"]).kind for t in offered("tokenizer")),
        "corpus": distinct(map(_name, (c for c in offered("corpus") if c.get("path") != "???"))),
    }


def opening(module: Any, started: str) -> list[Summary]:
    """What is known of a run before its first step; `started` is an ISO time."""
    from lightning.pytorch.utilities.model_summary import summarize
    from torch.utils.tensorboard.summary import custom_scalars

    config, tokenizer = module.about["config"], module.about["tokenizer"]["kind"]
    row = hyperparameters(config, tokenizer, module.model)
    return [
        *_row(row, started),
        custom_scalars(CHARTS),
        text("setup/config", _yaml(config)),
        text("setup/model", str(summarize(module, max_depth=-1))),
    ]


def refused(config: dict[str, Any], reason: str, started: str) -> list[Summary]:
    """What is known of a run that failed before its first step: its row, its config, and why."""
    return [
        *_row(hyperparameters(config), started),
        text("setup/config", _yaml(config)),
        text("setup/failed", reason),
    ]


def _row(row: dict[str, Value | None], started: str) -> list[Summary]:
    """The columns of the HParams tab, and a run's values in them."""
    return [
        hparams_columns(row, SHOWN_FIRST, METRICS, values_of_columns()),
        hparams_row(row, started),
    ]


def ending(status: str) -> Summary:
    """How a run ended. What was cut short (failed, interrupted) is a failure; what a sweep gave up
    (pruned) did what it was to do."""
    return hparams_end(status in ("done", "paused", "pruned"))


def _yaml(config: dict[str, Any]) -> str:
    shown = {key: value for key, value in config.items() if key not in NOT_SHOWN}
    return yaml.dump(shown, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def text(tag: str, typed: str) -> Summary:
    """A text for the Text tab, shown there as it was typed."""
    from tensorboard.plugins.text.summary_v2 import text_pb

    return text_pb(tag, preformatted(typed))


def preformatted(typed: str) -> str:
    """Markdown that shows `typed` literally, whatever it holds.

    TensorBoard renders texts as Markdown, HTML included, and then removes what could harm. Inside
    <pre>, with <, > and & escaped, nothing is left to render. (HTML drops a line break that follows
    <pre> at once. It is parsed twice, here and in the browser, so there are two to drop.) Control
    characters are shown by their pictures, and lines that no screen can hold go on in the next.
    """
    lines = (
        line[i : i + LINE] for line in typed.split("\n") for i in range(0, len(line) or 1, LINE)
    )
    shown = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", _control_picture, "\n".join(lines))
    return f"<pre>\n\n{html.escape(shown, quote=False)}</pre>"


def as_typed(markdown: str) -> str:
    """The text that `preformatted` was given, but for control characters; any other as it is."""
    inside = re.fullmatch(r"<pre>\n\n(.*)</pre>", markdown, re.DOTALL)
    return html.unescape(inside[1]) if inside else markdown


def _control_picture(control: re.Match[str]) -> str:
    code = ord(control[0])
    return "\u2421" if code == 0x7F else chr(0x2400 + code)


def visible(token: str) -> str:
    """A token as a label: white space by signs, what else cannot be printed by its number."""
    return "".join(WHITE_SPACE.get(c, c if c.isprintable() else f"{ord(c):x}") for c in token)


def image(tag: str, picture: Image) -> Summary:
    """A picture; torch's `add_image` takes several times as long."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    png = io.BytesIO()
    picture.save(png, "PNG", compress_level=3)
    encoded = Summary.Image(
        height=picture.height,
        width=picture.width,
        colorspace=3,
        encoded_image_string=png.getvalue(),
    )
    return Summary(value=[Summary.Value(tag=tag, image=encoded)])
