"""What the tab shows of one run, as JSON."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from lmlab.config.fingerprint import determining
from lmlab.console import command
from lmlab.errors import LabError
from lmlab.files import leads_out, open_to_read
from lmlab.runs.directory import LOG, RunDirectory
from lmlab.sweeps.board.rows import cut, job_row, pairs, quoted_key
from lmlab.sweeps.board.scan import SeenRun
from lmlab.sweeps.table.reading import RunFiles
from lmlab.sweeps.table.values import label, shown

MOST_SAMPLE, MOST_LOG = 20_000, 12_000  # characters


def about_run(run: SeenRun) -> dict[str, Any]:
    """Everything about one run."""
    about: dict[str, Any] = {"run": run.name, "sweep": run.sweep, **job_row(run, None)}
    if run.files is None:
        return about
    record, directory = run.files.record, RunDirectory(run.path)
    metrics = record.get("metrics")
    versions = record.get("versions")
    machine = {key: record.get(key) for key in ("processor", "threads", "device", "git_commit")}
    about |= {
        "metrics": pairs(metrics),
        "machine": pairs({**machine, **(versions if isinstance(versions, dict) else {})}),
        "started": cut(record.get("started") or ""),
        "parameters": run.files.figures()["parameters"],
        "changed": _changed(directory, run.files),
        "sample": cut(directory.sample or "", MOST_SAMPLE),
        "log": _end_of_log(run.path),
        "commands": _commands(run),
    }
    return about


def _changed(directory: RunDirectory, files: RunFiles) -> dict[str, Any]:
    """The keys whose values are not those of the defaults, as [key, value, default]."""
    stored = files.config or {}
    try:
        choices = tuple(sorted(directory.choices.items()))
        defaults = _defaults(choices)
    except LabError:
        rows = [[cut(key, 300), cut(shown(value)), None] for key, value in files.swept.items()]
        return {"of": "what its sweep varied", "rows": rows}
    rows = []
    for key, value in stored.items():
        default = defaults.get(key)
        if key not in defaults or (default != value and not _is_open(default)):
            was = shown(default) if key in defaults else None
            rows.append([cut(key, 300), cut(label("", value, None)), was])
    chosen = ", ".join(f"{group}={option}" for group, option in choices)
    return {"of": f"the defaults of {chosen}" if chosen else "the defaults", "rows": rows}


@lru_cache(64)
def _defaults(choices: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The keys of a config that is composed of these options and nothing else.

    Raises:
        LabError: if there are no such options here.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lmlab.config.words.compose import composed

    try:
        config = composed("train", [f"{group}={option}" for group, option in choices])
        plain: Any = OmegaConf.to_container(config, resolve=False)
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        raise LabError(f"cannot be composed again: {error}") from error
    return determining(plain)


def _is_open(value: Any) -> bool:
    """Whether a default says nothing by itself: `${…}` refers to another key."""
    return isinstance(value, str) and "${" in value


def _commands(run: SeenRun) -> list[list[str]]:
    """What goes on from here, to be typed: [what for, command]."""
    named = quoted_key("run", run.path)
    lines = [
        ["evaluate", f"{command('evaluate')} {named}"],
        ["sample", f"{command('generate')} {named} max_new_tokens=500"],
        ["export", f"{command('export')} {named} to=hf folder=exported"],
    ]
    if run.status in ("failed", "killed", "interrupted"):
        lines.insert(0, ["go on", f"{command('train')} {named}"])
    return lines


def _end_of_log(run: Path) -> str:
    path = run / LOG
    if leads_out(path, run):
        return ""
    with suppress(OSError, ValueError), open_to_read(path, within=run) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MOST_LOG))
        return file.read(MOST_LOG).decode("utf-8", errors="replace")
    return ""
