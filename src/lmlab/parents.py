"""`from=<run>[@<step>|@best]`: which checkpoint of which run a new run begins from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lmlab.errors import LabError
from lmlab.runs import Run, fingerprint


def run_of(words: str) -> Run:
    """The run that `from` names.

    Raises:
        LabError: if there is none.
    """
    path, _ = _split(words)
    try:
        return Run.open(path)
    except LabError as error:
        raise LabError(f"from: {error}") from error


def resolve(config: dict[str, Any]) -> dict[str, Any]:
    """The config with `from` as run, step and fingerprint of the parent, if it was typed.

    Raises:
        LabError: if there is no such checkpoint, or it leaves no step to take.
    """
    words = config["from"]
    if not isinstance(words, str):
        return config
    run, (_, which) = run_of(words), _split(words)
    steps = sorted(_steps(run))
    if which == "best":
        step = (run.record.get("best") or {}).get("step") if run.best.is_file() else None
    else:
        step = int(which) if which else max(steps, default=None)
    if step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise LabError(f"from={words}: no such checkpoint; steps of which there is one: {there}")
    if step >= config["trainer"]["max_steps"]:
        raise LabError(
            f"trainer.max_steps={config['trainer']['max_steps']}: from={words} begins at step "
            f"{step} and counts on, so give more"
        )
    parent = {"run": str(run.path), "step": step, "fingerprint": fingerprint(run.config)}
    return {**config, "from": parent}


def checkpoint_path(parent: dict[str, Any]) -> Path:
    """Where the checkpoint of a resolved `from` is kept.

    Raises:
        LabError: if it is not there any more.
    """
    run = run_of(parent["run"])
    path = _steps(run).get(parent["step"])
    if path is None or fingerprint(run.config) != parent["fingerprint"]:
        raise LabError(f"from={parent['run']}@{parent['step']}: this checkpoint is gone")
    return path


def _split(words: str) -> tuple[str, str | None]:
    found = re.fullmatch(r"(.*)@(\d+|best|last)", words, flags=re.DOTALL)
    if found is None:
        return words, None
    return found[1], None if found[2] == "last" else found[2]


def _steps(run: Run) -> dict[int, Path]:
    """The checkpoints of a run by step."""
    best = (run.record.get("best") or {}).get("step")
    found = {best: run.best} if best is not None and run.best.is_file() else {}
    folder = run.best.parent
    return found | {int(path.stem[5:]): path for path in folder.glob("step-[0-9]*.ckpt")}
