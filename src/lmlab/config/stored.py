"""The folder of configs; and the past: how what an earlier lmlab left is read as today's.

`with_todays_defaults` reads a stored config, `metrics_by_todays_names` the figures of a record.
`as_written_first` is the other half of the first: it writes a config of today as one of then, so
that the fingerprints of runs stay as they are. A feature that comes adds its defaults to
ADDED_LATER, a class that moves its two names to MOVED.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

# Where classes that older configs name are found today.
MOVED = {
    "lmlab.training.callbacks.NotebookCells": "lmlab.display.samples.NotebookCells",
    "lmlab.training.callbacks.Sample": "lmlab.display.samples.Sample",
    "lmlab.training.histograms.Histograms": "lmlab.display.histograms.Histograms",
    "lmlab.training.loggers.EventFiles": "lmlab.display.loggers.EventFiles",
    "lmlab.training.loggers.MetricsCSV": "lmlab.display.loggers.MetricsCSV",
    "lmlab.training.pictures.Pictures": "lmlab.display.pictures.Pictures",
    "lmlab.training.projector.Projector": "lmlab.display.projector.Projector",
    "lmlab.training.optim.constant": "lmlab.training.optimizers.schedules.constant",
    "lmlab.training.optim.cosine": "lmlab.training.optimizers.schedules.cosine",
    "lmlab.training.optim.linear": "lmlab.training.optimizers.schedules.linear",
    "lmlab.training.mfu.MFU": "lmlab.training.costs.mfu.MFU",
    "lmlab.training.muon.Muon": "lmlab.training.optimizers.muon.Muon",
    "lmlab.training.parametrisation.MuP": "lmlab.training.optimizers.parametrisation.MuP",
    "lmlab.training.parametrisation.Standard": "lmlab.training.optimizers.parametrisation.Standard",
    "lmlab.sweeps.study.Grid": "lmlab.sweeps.search.study.Grid",
    "lmlab.sweeps.pruning.Pruning": "lmlab.sweeps.search.pruning.Pruning",
}
FIRST_NAMES = {today: before for before, today in MOVED.items()}  # a move changes no result

# What `logger.tensorboard: true` and `logger.csv: true` stood for.
SWITCHED_ON = {
    "tensorboard": "lmlab.display.loggers.EventFiles",
    "csv": "lmlab.display.loggers.MetricsCSV",
}

# Keys that came later, with the value, by its first name, that stands for what was done before: at
# this value they do not count, so that a run of before keeps its fingerprint.
ADDED_LATER: dict[str, Any] = {
    "from": None,
    "teacher.runs": None,
    "teacher.share": 0.5,
    "model.temperature": 1.0,
    "model.drop_path": 0.0,
    "model.members.*.drop_path": 0.0,  # of each
    "model.trigram_embedding": None,
    "model.members.*.trigram_embedding": None,
    "model.short_conv": None,
    "model.members.*.short_conv": None,
    "trainer.num_nodes": 1,
    "data.order": "random",
    "eval.full": True,
    "loss._target_": "lmlab.training.loss.CrossEntropy",
    "tasks": {},
    "parametrisation._target_": "lmlab.training.parametrisation.Standard",
    "corpus.field": "text",
    "corpus.column": "text",
    "corpus.documents": None,
    "corpus.split": "hash",
    "corpus.val": None,
    "corpus.skip_broken": False,
}

MEMBER = re.compile(r"^(model\.members\.)[^.]+\.")

# What computes otherwise than it once did, so that results of then are not taken for today's:
# these schedules came to their end at the last step, and spent it on a rate of 0 where that is 0.
NOW_OTHERWISE = ("lmlab.training.optim.cosine", "lmlab.training.optim.linear")


def conf_dir() -> Path:
    """The folder of configs: inside an installed package, beside src/ in a checkout."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "conf"


def with_todays_defaults(stored: Any) -> Any:
    """A run's stored config, with today's value of each key that came to the lab after it, today's
    place of each class that has moved, and a logger where it switches one on.

    Only keys of the lab's own are filled in. What stands under a `_target_` goes by the defaults of
    that class, and a missing group stays missing: nobody knows what it was. A checkpoint also keeps
    how a sweep launched it, which is nothing that it is used with.
    """
    if not isinstance(stored, dict):
        return stored
    today = {**_with_todays_names(stored), "sweep": None}
    if isinstance(today.get("logger"), dict):
        today["logger"] = _with_switches_replaced(today["logger"])
    return _filled(today, _defaults())


def metrics_by_todays_names(metrics: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run by what they are called today. Behind the full pass over val its bits
    once took the names of those of val/loss: val/bpc was that of val/loss_full."""
    if "val/loss_full" not in metrics or "val/bpc_full" in metrics:
        return metrics
    full = {"val/bpc": "val/bpc_full", "val/bpb": "val/bpb_full"}
    return {full.get(name, name): value for name, value in metrics.items()}


def as_written_first(config: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Keys and values of a config as it was written before the lab had what came later: each class
    by the name that it had first, without ADDED_LATER."""
    written = {}
    for key, value in config:
        if key.endswith("._target_") and isinstance(value, str):
            value = FIRST_NAMES.get(value, value)
        if (MEMBER.sub(r"\1*.", key), value) not in ADDED_LATER.items():
            written[key] = value
    if written.get("schedule._target_") in NOW_OTHERWISE:
        written["schedule.ends"] = "after the last step"
    return written


def _with_todays_names(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_todays_names(child) for child in node]
    if not isinstance(node, dict):
        return node
    named = {key: _with_todays_names(child) for key, child in node.items()}
    target = named.get("_target_")
    if isinstance(target, str):
        named["_target_"] = MOVED.get(target, target)
    return named


def _with_switches_replaced(loggers: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"_target_": SWITCHED_ON[name]} if node is True and name in SWITCHED_ON else node
        for name, node in loggers.items()
    }


def _filled(stored: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    filled = dict(stored)
    for key, default in defaults.items():
        if key not in stored:
            filled[key] = default
        elif isinstance(default, dict) and isinstance(stored[key], dict):
            filled[key] = _filled(stored[key], default)
    return filled


@functools.cache
def _defaults() -> dict[str, Any]:
    """What conf/ says of the keys that belong to no part with a `_target_`."""
    defaults = yaml.safe_load((conf_dir() / "train.yaml").read_text("utf-8"))
    del defaults["defaults"], defaults["name"]  # a name follows from the command
    trainer = yaml.safe_load((conf_dir() / "trainer" / "auto.yaml").read_text("utf-8"))
    return {**defaults, "trainer": trainer}
