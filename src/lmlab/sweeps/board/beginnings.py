"""Where a sweep comes from: what it asks, the commands that train and show it again, and the
versions and machines of its runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from lmlab.config.fingerprint import value_at
from lmlab.config.stored import conf_dir
from lmlab.console import command
from lmlab.errors import LabError
from lmlab.files import leads_out
from lmlab.runs.record import read_config
from lmlab.sweeps.board.rows import cut, typed
from lmlab.sweeps.journal.journal import MULTIRUN
from lmlab.sweeps.table.reading import RunFiles

MOST_MACHINES = 40  # lines on versions and machines


def question_of(folder: Path) -> str:
    """What a named sweep asks: the comment that its config begins with."""
    options = conf_dir() / "sweep"
    path = options / f"{_composed(folder, 'hydra.runtime.choices.sweep')}.yaml"
    if not path.is_file() or leads_out(path, options):
        return ""
    lines = path.read_text("utf-8").splitlines()[1:]  # behind the package
    comment = takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.removeprefix("#").strip() for line in comment)


def commands_of(folder: Path) -> list[list[str]]:
    """What trains the sweep again, and what shows it: [what for, command]."""
    asked = [
        word
        for kind in ("task", "hydra")
        for word in _listed(_composed(folder, f"hydra.overrides.{kind}"))
        if word != "hydra.mode=MULTIRUN" and not word.startswith("sweep.name='")  # it follows
    ]
    again = [["train again", cut(f"{command('train')} -m {shlex.join(asked)}")]] if asked else []
    return [*again, ["report", f"{command('sweep')} {typed(folder)}"]]


def made_with(files: Sequence[RunFiles]) -> list[str]:
    """Versions and processors of the runs, each once."""
    lines: dict[str, None] = {}
    for run in files:
        versions = run.record.get("versions")
        if isinstance(versions, dict):
            lines[", ".join(f"{name} {version}" for name, version in versions.items())] = None
        keys = ("git_commit", "processor", "threads", "device")
        here = [f"{key} {run.record[key]}" for key in keys if run.record.get(key)]
        lines[", ".join(here)] = None
    return [cut(line) for line in lines if line][:MOST_MACHINES]


def _composed(folder: Path, key: str) -> Any:
    """What Hydra composed for the sweep at some key; None where nothing is left of it."""
    path = folder / MULTIRUN
    try:
        return value_at(_read(path, path.stat().st_mtime_ns), key)
    except (LabError, OSError):
        return None


@lru_cache(32)
def _read(path: Path, _: int) -> dict[str, Any]:
    """Kept as long as it was written at that time."""
    return read_config(path)


def _listed(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []
