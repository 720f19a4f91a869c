"""What the tab shows of one run, as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from lmlab.config.fingerprint import determining
from lmlab.console import command
from lmlab.errors import LabError
from lmlab.files import leads_out, open_to_read, read_small
from lmlab.runs.directory import CONFIG, LOG, SAMPLE, RunDirectory
from lmlab.runs.record import MOST_CONFIG
from lmlab.sweeps.board.rows import cut, job_row, made_with, pairs, quoted_key
from lmlab.sweeps.board.scan import SeenRun, stamp_of
from lmlab.sweeps.table.reading import RunFiles
from lmlab.sweeps.table.values import label, shown

MOST_SAMPLE, MOST_LOG = 20_000, 12_000  # characters
UNFINISHED = ("failed", "killed", "interrupted", "paused")
MOST_FILES, MOST_CHILDREN = 300, 100


class Related(NamedTuple):
    """A run that another began from, or that began from it."""

    title: str
    name: str | None  # None: it is not below the log folder
    step: int | None  # of the checkpoint


def about_run(run: SeenRun, runs: Mapping[str, SeenRun] | None = None) -> dict[str, Any]:
    """Everything about one run; `runs`: all that there are, its relatives among them."""
    about: dict[str, Any] = {"run": run.name, "sweep": run.sweep, **job_row(run, None)}
    about["files"] = [[cut(name, 300), size] for name, size in files_of(run.path)]
    about["log"] = _end_of_log(run.path)
    if run.files is None:
        return about
    record, directory = run.files.record, RunDirectory(run.path)
    parents, children = relatives(run, runs or {})
    return about | {
        "metrics": pairs(record.get("metrics")),
        "machine": pairs(made_with(record)),
        "started": cut(record.get("started") or ""),
        "parameters": run.files.figures()["parameters"],
        "parents": [parent._asdict() for parent in parents],
        "children": [child._asdict() for child in children],
        "changed": _changed(directory, run.files),
        "config": _config(run.path),
        "sample": cut(directory.sample or "", MOST_SAMPLE),
        "commands": _commands(run),
    }


def news_of(run: SeenRun, runs: Mapping[str, SeenRun]) -> str:
    """What changes when anything does that `about_run` tells; costs little."""
    shown = [stamp_of(run.path / name) for name in (LOG, SAMPLE)]
    return repr(
        (run.stamp, run.status, run.problem, files_of(run.path), shown, relatives(run, runs))
    )


def files_of(run: Path) -> list[tuple[str, int | None]]:
    """The files of a run by name, with their sizes in bytes; None: a link, which is not followed.
    Of many the first."""
    files: list[tuple[str, int | None]] = []
    folders = [run]
    while folders and len(files) < MOST_FILES:
        with suppress(OSError), os.scandir(folders.pop(0)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                is_link = entry.is_symlink()
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif not entry.name.startswith("."):
                    name = Path(entry.path).relative_to(run).as_posix()
                    size = None if is_link else entry.stat(follow_symlinks=False).st_size
                    files.append((name, size))
    return [] if os.path.realpath(run) != str(run) else files[:MOST_FILES]


def relatives(run: SeenRun, runs: Mapping[str, SeenRun]) -> tuple[list[Related], list[Related]]:
    """The run that it began from, if it did, and those that began from it.

    A parent may have been moved, or be told of as seen from another folder: it is known by the last
    two names of its path.
    """
    parents, children = [], []
    parent = _parent(run)
    if parent is not None:
        named, step = parent
        there = [r for r in runs.values() if _last_names(str(r.path)) == _last_names(named)]
        exact = [r for r in there if str(r.path) == os.path.realpath(named)] or there
        name = exact[0].name if exact else None
        parents.append(Related(cut(name or named, 300), name, step))
    own = _last_names(str(run.path))
    for other in runs.values():
        parent = _parent(other)
        if parent is not None and _last_names(parent[0]) == own:
            children.append(Related(cut(other.name, 300), other.name, parent[1]))
    return parents, children[:MOST_CHILDREN]


def _parent(run: SeenRun) -> tuple[str, int | None] | None:
    """The path and the step that a record tells of its parent."""
    parent = run.files.record.get("parent") if run.files else None
    if not isinstance(parent, dict) or not isinstance(parent.get("run"), str):
        return None
    step = parent.get("step")
    return parent["run"], step if isinstance(step, int) else None


def _last_names(path: str) -> list[str]:
    return path.replace("\\", "/").rstrip("/").split("/")[-2:]


def _config(run: Path) -> str:
    """The file as it stands."""
    path = run / CONFIG
    with suppress(OSError, ValueError):
        content = read_small(path, MOST_CONFIG, within=run)
        return cut(content.decode("utf-8", errors="replace"), MOST_SAMPLE)
    return ""


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
    step = run.files.figures()["step"] if run.files else None
    if run.status == "done" and step:
        longer = f"{quoted_key('from', run.path)} trainer.max_steps={2 * step}"
        lines.append(["train longer, as another run", f"{command('train')} {longer}"])
    if run.status in UNFINISHED:
        name = "try again" if run.status == "failed" else "go on"
        lines.insert(0, [name, f"{command('train')} {named}"])
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
