"""Which part of a config determines a result, and whether two configs mean the same experiment."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

from lmlab.config.stored import as_written_first
from lmlab.errors import LabError

# What changes where a run is kept or how fast it goes, but not what it computes.
NOT_IN_FINGERPRINT = (
    "output_dir",
    "name",
    "run",
    "resume",
    "pause_at",
    "run_dir",
    "dry_run",
    "sweep",
    "logger",
    "callbacks.pictures",
    "callbacks.projector",
    "callbacks.histograms",
    "callbacks.activations",
    "checkpoint",
    "data.steps_per_batch",
    "eval.at_start",
    "eval.tasks_every",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "from.run",  # a parent may move; its fingerprint and the step say what it was
)


def fingerprint(config: dict[str, Any]) -> str:
    """A hash of the part of a config that determines the result."""
    canonical = json.dumps(_compared(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def determining(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that determines the result: dotted keys and their values."""
    settings = as_written_first(
        (key, value) for key, value in leaves(config) if not under(key, NOT_IN_FINGERPRINT)
    )
    teachers = settings.get("teacher.runs")
    if isinstance(teachers, list) and teachers:  # as of a parent
        settings["teacher.runs"] = [
            {key: value for key, value in run.items() if key != "run"}
            if isinstance(run, dict)
            else run
            for run in teachers
        ]
    rules = value_at(config, "optimizer.rules")
    rules = rules if isinstance(rules, dict) else {}
    for name in (name for name, rule in rules.items() if rule is None):
        settings.pop(f"optimizer.rules.{name}", None)  # it is turned off
    settings.pop("optimizer.rules", None)  # none at all
    if on := [name for name, rule in rules.items() if rule is not None]:
        settings["optimizer.rules"] = on  # the first that matches wins, and keys have no order
    return settings


def _compared(config: dict[str, Any]) -> dict[str, Any]:
    """What two configs of one experiment have in common.

    Where the order of windows is no draw, a batch is the same by however many processes it is
    shared out: then it is its windows in all of them that count, and a run goes on with more
    processes or fewer.
    """
    settings = determining(config)
    if settings.get("data.order", "random") == "random":
        return settings
    devices, n_nodes = settings.get("trainer.devices", 1), settings.get("trainer.num_nodes", 1)
    n_devices = len(devices) if isinstance(devices, list) else devices
    factors = settings.get("data.batch_size"), n_devices, n_nodes
    if all(isinstance(factor, int) for factor in factors):  # not auto
        for key in ("data.batch_size", "trainer.devices", "trainer.num_nodes"):
            settings.pop(key, None)
        settings["data.batch_size in all processes"] = math.prod(factors)
    return settings


def check_continues(
    stored: dict[str, Any], wanted: dict[str, Any], may_change: tuple[str, ...] = ()
) -> None:
    """Whether a run with the config `stored` may go on with `wanted`: with the same experiment.

    Keys below `may_change` are left to the caller, who has another way to compare them.

    Raises:
        LabError: listing each key whose change would make it another one, with both values.
    """
    before, now = _compared(stored), _compared(wanted)
    changed = [
        f"{key}: {before.get(key)!r} is now {now.get(key)!r}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key) and not under(key, may_change)
    ]
    if changed:
        raise LabError(
            f"a run goes on with its own config ({'; '.join(changed)}); from=<run> begins a new one"
        )


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a config that holds no further keys, with its value."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_at(tree: Any, key: str) -> Any:
    """The value at a dotted key of whatever was stored; None where there is none."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def under(key: str, roots: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of `roots`, or below one."""
    return key in roots or key.startswith(_prefixes(roots))


@functools.cache  # a table of a sweep asks for every key of every run
def _prefixes(roots: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{root}." for root in roots)
