"""Which run is meant by `last`, or by a folder of runs: the newest in it."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from lmlab.errors import LabError
from lmlab.files import path_typed
from lmlab.runs.directory import CONFIG, RECORD


def run_meant(typed: str, key: str, outputs: str = "outputs") -> str:
    """The path of the run that is typed: itself, unless it stands for the newest of several.

    `last` is the newest run in `outputs`, `last:NAME` the newest of those of that name, and a
    folder of runs its newest. A checkpoint behind it, as in last@best, stays there.

    Raises:
        LabError: if there is no run in that folder.
    """
    parts = re.fullmatch(r"(.*?)(@(?:\d+|best|last))?", typed, re.DOTALL)
    assert parts is not None  # it takes anything
    place, checkpoint = parts.groups("")
    word, _, name = place.partition(":")
    if word == "last" and not Path(place).exists():
        folder = path_typed(outputs, "output_dir") / name
    else:
        folder = path_typed(place, key)
        if not folder.is_dir() or (folder / CONFIG).is_file():
            return typed
        if not any((inside / CONFIG).is_file() for inside in folder.iterdir()):
            return typed  # whoever opens it says what is wrong
    newest = newest_run(folder)
    if newest is None:
        raise LabError(f"{key}={typed}: there is no run in {folder}")
    return f"{newest}{checkpoint}"


def newest_run(folder: Path) -> Path | None:
    """The run in a folder, however deep, that was started last; None if there is none."""
    started: dict[Path, tuple[datetime, int]] = {}
    for path in folder.rglob(RECORD):
        with suppress(OSError, ValueError, KeyError, TypeError):  # it is no run's
            at = datetime.fromisoformat(json.loads(path.read_bytes())["started"])
            started[path.parent] = at.astimezone(), path.stat().st_mtime_ns
    return max(started, key=started.__getitem__, default=None)
