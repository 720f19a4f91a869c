"""What runs say, as JSON has it: texts cut where they are long, finite numbers, rows of them."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmlab.sweeps.board.scan import SeenRun, SeenSweep
from lmlab.sweeps.table.settings import BEST, LOSS
from lmlab.sweeps.table.values import shown

MOST = 2_000  # characters of a text in a table


def job_row(run: SeenRun, sweep: SeenSweep | None) -> dict[str, Any]:
    name = os.path.relpath(run.path, sweep.path) if sweep else run.name
    job: dict[str, Any] = {"name": cut(name, 300), "run": run.name, "status": cut(run.status, 40)}
    if run.files is None:
        return job | {"error": cut(run.problem)}
    figures = run.files.figures()
    most = (run.files.config or {}).get("trainer.max_steps")
    loss = finite(figures[LOSS])
    if sweep and (progress := sweep.progress.by_path.get(run.path)):
        job |= {"status": cut(progress.status, 40), "rate": finite(progress.rate)}
        job |= {"left": finite(progress.left)}
    return job | {
        "error": cut(run.files.error),
        "diverged": run.files.diverged,
        "seed": cut(shown(figures["seed"], 40)),
        "step": figures["step"],
        "max_steps": most if isinstance(most, int) else None,
        "loss": loss if loss is not None else finite(figures[BEST]),
        "is_final": loss is not None,
        "seconds": finite(figures["seconds"]),
    }


def pairs(mapping: Any) -> list[list[str]]:
    known: Mapping[Any, Any] = mapping if isinstance(mapping, dict) else {}
    return [[cut(key, 300), cut(shown(v))] for key, v in known.items() if v is not None]


def made_with(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was computed on and with, by its record."""
    keys, versions = ("processor", "threads", "device", "git_commit"), record.get("versions")
    machine = {key: record[key] for key in keys if record.get(key) is not None}
    return machine | (versions if isinstance(versions, dict) else {})


def finite(value: Any) -> float | None:
    """A number as JSON has it; None for what is none."""
    if isinstance(value, bool | str | None) or not hasattr(value, "__float__"):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def cut(text: Any, most: int = MOST) -> str:
    """A text as it can be sent: of at most so many characters, and no half ones."""
    text = str(text).encode(errors="replace").decode()
    return text if len(text) <= most else f"{text[:most]}…"


def quoted_key(key: str, path: Path) -> str:
    return shlex.quote(f"{key}={_from_here(path)}")


def typed(path: Path) -> str:
    return shlex.quote(_from_here(path))


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
