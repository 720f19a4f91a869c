"""The folder of configs, and what it says today of keys that an older stored config lacks."""

from __future__ import annotations

import functools
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
    "lmlab.training.muon.Muon": "lmlab.training.optimizers.muon.Muon",
    "lmlab.training.parametrisation.MuP": "lmlab.training.optimizers.parametrisation.MuP",
    "lmlab.training.parametrisation.Standard": "lmlab.training.optimizers.parametrisation.Standard",
    "lmlab.sweeps.study.Grid": "lmlab.sweeps.search.study.Grid",
    "lmlab.sweeps.pruning.Pruning": "lmlab.sweeps.search.pruning.Pruning",
}


def conf_dir() -> Path:
    """The folder of configs: inside an installed package, beside src/ in a checkout."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "conf"


def with_todays_defaults(stored: Any) -> Any:
    """A run's stored config, with today's value of each key that came to the lab after it, and
    today's place of each class that has moved.

    Only keys of the lab's own are filled in. What stands under a `_target_` goes by the defaults of
    that class, and a missing group stays missing: nobody knows what it was. A checkpoint also keeps
    how a sweep launched it, which is nothing that it is used with.
    """
    if not isinstance(stored, dict):
        return stored
    return _filled({**_found_today(stored), "sweep": None}, _defaults())


def _found_today(node: Any) -> Any:
    if isinstance(node, list):
        return [_found_today(child) for child in node]
    if not isinstance(node, dict):
        return node
    found = {key: _found_today(child) for key, child in node.items()}
    target = found.get("_target_")
    if isinstance(target, str):
        found["_target_"] = MOVED.get(target, target)
    return found


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
