"""What TensorBoard shows of a run besides its curves: hyperparameters, charts, texts."""

from __future__ import annotations

import functools
import html
import io
import re
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import yaml

from lmlab.conf import conf_dir

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

SHOWN_FIRST = ("model", "n_layer", "n_embd", "lr", "seed")  # of the hyperparameters

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

NOT_SHOWN = (
    "output_dir",
    "run",
    "run_dir",
    "resume",
    "dry_run",
    "sweep",
)  # where a run is kept, not what

LINE = 200  # characters of a line of text, which TensorBoard does not wrap
WHITE_SPACE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}

Value = str | float


def hyperparameters(config: dict[str, Any], tokenizer: str, model: nn.Module) -> dict[str, Value]:
    """The row of a run in the HParams tab: the same columns, of the same types, for every run.

    TensorBoard hides runs that lack a column or hold another type in it. So what does not apply to
    a model (a bigram's heads, the learning rate of a count table) is 0, or "none" where it is text.
    """
    node, is_trained = config["model"], not hasattr(model, "fit")
    optimizer = config["optimizer"] if is_trained else {}
    heads = [*_values(node, "n_head"), *(getattr(m, "n_head", None) for m in model.modules())]
    return {
        "name": config["name"],
        "model": _model(node),
        "n_layer": _number(node.get("n_layer")),
        "n_head": _number(next((n for n in heads if n is not None), None)),
        "n_embd": _number(node.get("n_embd")),
        "dropout": _number(node.get("dropout")),
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "block_size": float(config["data"]["block_size"]),
        "batch_size": float(config["data"]["batch_size"]),
        "optimizer": _optimizer(optimizer) if is_trained else "none",
        "lr": _number(optimizer.get("lr")),
        "weight_decay": _number(optimizer.get("weight_decay")),
        "schedule": _name(config["schedule"]) if is_trained else "none",
        "max_steps": float(config["trainer"]["max_steps"]),
        "precision": str(config["trainer"]["precision"]),
        "seed": float(config["seed"]),
        "tokenizer": tokenizer,
        "corpus": _corpus(config["corpus"]),
    }


def _optimizer(node: dict[str, Any]) -> str:
    """`AdamW`, or with rules `Muon + AdamW`: those of the rules, then the one of the rest."""
    rules = [rule for rule in (node.get("rules") or {}).values() if rule and "_target_" in rule]
    return " + ".join(dict.fromkeys(map(_name, [*rules, node])))


def _name(node: dict[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _model(node: dict[str, Any]) -> str:
    """A model by the name of its class; a stack of layers by that of the layer."""
    layer = node.get("layer")
    return _name(layer if isinstance(layer, dict) and "_target_" in layer else node)


def _values(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, at any depth."""
    if isinstance(node, dict):
        for name, child in node.items():
            if name == key:
                yield child
            yield from _values(child, key)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _corpus(node: dict[str, Any]) -> str:
    return Path(node["path"]).name if _name(node) == "from_files" else _name(node)


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
    from tensorboard.plugins.hparams import summary_v2 as hparams
    from torch.utils.tensorboard.summary import custom_scalars

    config, tokenizer = module.about["config"], module.about["tokenizer"]["kind"]
    row = hyperparameters(config, tokenizer, module.model)
    began = datetime.fromisoformat(started).timestamp()
    return [
        _columns(row),
        # Without a name of its own a row is called by the run's directory, as in every other tab.
        hparams.hparams_pb(row, trial_id="", start_time_secs=began),
        custom_scalars(CHARTS),
        text("setup/config", _yaml(config)),
        text("setup/model", str(summarize(module, max_depth=-1))),
    ]


def _columns(row: dict[str, Value]) -> Summary:
    """The columns of the HParams tab: the same for every run, since any may be the one whose
    columns TensorBoard takes."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    experiment = api_pb2.Experiment()
    for name, value in row.items():
        # TensorBoard puts what `differs` first, and shows the first five.
        info = experiment.hparam_infos.add(name=name, differs=name in SHOWN_FIRST)
        if isinstance(value, str):
            info.type = api_pb2.DATA_TYPE_STRING
            # What stands here may be unticked; the rest is always shown.
            offered = values_of_columns().get(name, [])
            own = [value] if offered and value not in offered else []
            info.domain_discrete.extend([*offered, *own])
        else:
            info.type = api_pb2.DATA_TYPE_FLOAT64
            info.domain_interval.min_value, info.domain_interval.max_value = 0.0, sys.float_info.max
    for tag in METRICS:
        experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag))
    return _hparams(
        metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment)
    )


def ending(status: str) -> Summary:
    """How a run ended. What was cut short (failed, interrupted) is a failure; what a sweep gave up
    (pruned) did what it was to do."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    succeeded = status in ("done", "pruned")
    end = plugin_data_pb2.SessionEndInfo(
        status=api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE,
        end_time_secs=time.time(),
    )
    return _hparams(
        metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end)
    )


def _hparams(tag: str, content: Any) -> Summary:
    """The plugin reads nothing but metadata; the tensor that a summary must have is empty."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    about = metadata.create_summary_metadata(content)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])


def _yaml(config: dict[str, Any]) -> str:
    shown = {key: value for key, value in config.items() if key not in NOT_SHOWN}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


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


def _control_picture(found: re.Match[str]) -> str:
    code = ord(found[0])
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
