"""What TensorBoard is told about a run besides its curves: hyperparameters, charts, texts."""

from __future__ import annotations

import html
import io
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from tensorboard.compat.proto.summary_pb2 import Summary

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

KNOWN = {  # the values that can be unticked beside the table; there may be others
    "model": (
        *("Bigram", "Average", "Head", "MultiHead", "Block", "ResidualBlock", "PreNormBlock"),
        *("GPT", "NGram"),
    ),
    "optimizer": ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Muon + AdamW", "none"),
    "schedule": ("constant", "cosine", "linear", "none"),
    "precision": ("32-true", "bf16-mixed", "bf16-true", "16-mixed"),
    "tokenizer": ("char", "byte", "gpt2"),
    "corpus": ("tinyshakespeare", "shakespeare"),
}

# The charts of the Custom Scalars tab: by category, then chart, the tags as regular expressions.
CHARTS = {
    "loss": {
        "train and val loss by step": ["Multiline", [r"^train/loss$", r"^val/loss$"]],
        "train and val loss by tokens seen": ["Multiline", [r"^vs_tokens/(train|val)/loss$"]],
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


def hyperparameters(config: dict[str, Any], tokenizer: str, n_parameters: int) -> dict[str, Value]:
    """The row of a run in the HParams tab: the same columns, of the same types, for every run.

    TensorBoard hides runs that lack a column or hold another type in it. So what does not apply to
    a model (a bigram's heads, the learning rate of a count table) is 0, or "none" where it is text.
    """
    model, trained = config["model"], _name(config["model"]) != "NGram"
    optimizer = config["optimizer"] if trained else {}
    layer = model.get("layer")
    heads = list(_values(model, "n_head")) or [1] * ("Head" in _names(model))
    return {
        "name": config["name"],
        "model": _name(layer if isinstance(layer, dict) and "_target_" in layer else model),
        "n_layer": _number(model.get("n_layer")),
        "n_head": _number(heads[0] if heads else None),
        "n_embd": _number(model.get("n_embd")),
        "dropout": _number(model.get("dropout")),
        "parameters": float(n_parameters),
        "block_size": float(config["data"]["block_size"]),
        "batch_size": float(config["data"]["batch_size"]),
        "optimizer": _optimizer(optimizer) if trained else "none",
        "lr": _number(optimizer.get("lr")),
        "weight_decay": _number(optimizer.get("weight_decay")),
        "schedule": _name(config["schedule"]) if trained else "none",
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


def _names(node: dict[str, Any]) -> list[str]:
    return [str(target).rpartition(".")[2] for target in _values(node, "_target_")]


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


def opening(module: Any, started: str) -> list[Summary]:
    """What is known of a run before its first step; `started` is an ISO time."""
    from lightning.pytorch.utilities.model_summary import summarize
    from tensorboard.plugins.hparams import summary_v2 as hparams
    from torch.utils.tensorboard.summary import custom_scalars

    config, tokenizer = module.about["config"], module.about["tokenizer"]["kind"]
    row = hyperparameters(config, tokenizer, sum(p.numel() for p in module.model.parameters()))
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
    """The columns of the HParams tab: they depend on no run, for any may be the one it goes by."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    experiment = api_pb2.Experiment()
    for name, value in row.items():
        # TensorBoard puts what `differs` first, and shows the first five.
        info = experiment.hparam_infos.add(name=name, differs=name in SHOWN_FIRST)
        if isinstance(value, str):
            info.type = api_pb2.DATA_TYPE_STRING
            info.domain_discrete.extend(KNOWN.get(name, ()))  # may be unticked; the rest is shown
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
    import yaml

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


def image(tag: str, pixels: np.ndarray) -> Summary:
    """A picture (height, width, 3) in uint8; torch's `add_image` takes several times as long."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG", compress_level=3)
    height, width, _ = pixels.shape
    encoded = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=png.getvalue()
    )
    return Summary(value=[Summary.Value(tag=tag, image=encoded)])
