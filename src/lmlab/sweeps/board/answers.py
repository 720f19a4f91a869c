"""What the tab shows of sweeps and runs, as JSON. Whatever runs say is text in it, cut where it is
long; figures are those of the report."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lmlab.config.fingerprint import determining
from lmlab.console import command
from lmlab.errors import LabError
from lmlab.files import leads_out, open_to_read
from lmlab.runs.directory import LOG, RunDirectory
from lmlab.sweeps.board.scan import SeenRun, SeenSweep
from lmlab.sweeps.kept import FIT, Kept
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.report.questions import Asked
from lmlab.sweeps.report.sections import Column, Section
from lmlab.sweeps.table.reading import RunFiles
from lmlab.sweeps.table.settings import (
    BEST,
    LOSS,
    METRICS,
    STATUSES,
    Table,
    tabulate,
)
from lmlab.sweeps.table.values import heading, label, short_keys, shown
from lmlab.sweeps.table.words import name_of

MOST = 2_000  # characters of a text in a table
MOST_SAMPLE, MOST_LOG = 20_000, 12_000


def listed(sweeps: Iterable[SeenSweep], is_cut: bool) -> dict[str, Any]:
    """A row for each sweep, the one that moved last first; `is_cut`: there may be more."""
    rows = []
    for sweep in sorted(sweeps, key=lambda sweep: -sweep.moved):
        best = min(_losses(sweep.files), default=None)
        rows.append(
            {
                "sweep": sweep.name,
                "title": _cut(sweep.title, 300),
                "is_launched": sweep.is_launched,
                "jobs": len(sweep.runs) + len(sweep.refused) + sweep.n_waiting,
                "counts": _counts(sweep),
                "best": best and best[0],
                "metric": best and best[1],
                "moved": sweep.moved or None,
            }
        )
    return {"sweeps": rows, "is_cut": is_cut}


def about_sweep(sweep: SeenSweep, baseline: str = "") -> dict[str, Any]:
    """Jobs, leaderboard, differences to a setting, by its name, or to the best."""
    jobs = [_job(run, sweep) for run in sweep.runs]
    jobs += [
        {"name": f"job {shown(e.job, 20)}", "run": None, "status": _cut(e.status, 40)}
        | {"error": _cut(e.error or "no reason is recorded")}
        for e in sweep.refused
    ]
    about: dict[str, Any] = {
        "sweep": sweep.name,
        "title": _cut(sweep.title, 300),
        "is_launched": sweep.is_launched,
        "counts": _counts(sweep),
        "moved": sweep.moved or None,
        "jobs": jobs,
        "remark": "",
        "leaderboard": None,
        "sections": [],
        "commands": [f"{command('sweep')} {_typed(sweep.path)}"],
    }
    files = sweep.files
    if not files:
        return about
    table = tabulate(files)
    settings = {
        str(path): int(setting)
        for path, setting in table.runs[["directory", "setting"]].itertuples(index=False)
    }
    for run, job in zip(sweep.runs, jobs, strict=False):
        job["setting"] = settings.get(str(run.path))
    asked, about["remark"] = _asked(table, sweep, baseline)
    board, *answers = _sections(asked, sweep)
    about["leaderboard"] = _leaderboard(table, board)
    about["sections"] = [
        {
            "title": _cut(section.title),
            "columns": [_column(column) for column in section.columns],
            "notes": list(map(_cut, section.notes)),
            "lines": list(map(_cut, section.lines)),
            "best": section.best,
        }
        for section in answers
    ]
    return about


def figures_of(sweep: SeenSweep, baseline: str = "") -> dict[str, Any]:
    """Vega-Lite by the name of the figure."""
    if not (files := sweep.files):
        return {}
    from lmlab.sweeps.figures.charts import spec_of

    asked, _ = _asked(tabulate(files), sweep, baseline)
    sections = _sections(asked, sweep)
    charts = [pair for section in sections for pair in section.figures.items()]
    return {name: spec_of(chart) for name, chart in charts}


def about_run(run: SeenRun) -> dict[str, Any]:
    """Everything about one run."""
    about: dict[str, Any] = {"run": run.name, "sweep": run.sweep, **_job(run, None)}
    if run.files is None:
        return about
    record, directory = run.files.record, RunDirectory(run.path)
    metrics = record.get("metrics")
    versions = record.get("versions")
    machine = {key: record.get(key) for key in ("processor", "threads", "device", "git_commit")}
    about |= {
        "metrics": _pairs(metrics),
        "machine": _pairs({**machine, **(versions if isinstance(versions, dict) else {})}),
        "started": _cut(record.get("started") or ""),
        "parameters": run.files.figures()["parameters"],
        "changed": _changed(directory, run.files),
        "sample": _cut(directory.sample or "", MOST_SAMPLE),
        "log": _end_of_log(run.path),
        "commands": _commands(run),
    }
    return about


def _asked(table: Table, sweep: SeenSweep, baseline: str) -> tuple[Asked, str]:
    """What the report of the sweep was asked, but for a law, which takes its time; and what is
    wrong with the baseline."""
    asked, remark = Asked(table), ""
    with suppress(LabError, ValueError):  # what it was asked before may have no answer any more
        asked = Asked.from_words(table, Kept.read(sweep.path).asked - {FIT})
    if baseline:
        # Of two that read alike it is the better one.
        named = {_cut(name_of(table, i)): int(i) for i in reversed(table.settings.index)}
        if baseline in named:
            asked = replace(asked, baseline=named[baseline])
        else:
            remark = f"no setting is called {_cut(baseline, 200)}: the best is the baseline"
    return asked, remark


def _sections(asked: Asked, sweep: SeenSweep) -> list[Section]:
    try:
        answers = list(asked.answers())
    except LabError:
        answers = list(Asked(asked.table, asked.baseline).answers())
    return [leaderboard(asked.table, folder=sweep.path), *answers]


def _leaderboard(table: Table, board: Section) -> dict[str, Any]:
    """The section with rank and score first, then keys by their short names; a value to sort by
    beside each cell."""
    n_keys, settings = len(table.keys), table.settings
    keys, others = board.columns[:n_keys], board.columns[n_keys:]
    short = short_keys(map(heading, table.keys))
    of_keys = [
        _column(column, settings[key], _cut(short[heading(key)], 60), _cut(heading(key), 300))
        for key, column in zip(table.keys, keys, strict=True)
    ]
    first: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    by_heading = {"parameters": "parameters", "time": "seconds", "steps": "step"}
    for column in others:
        name = column.heading
        values = settings[name] if name in METRICS else settings.get(by_heading.get(name, ""))
        title = ", ".join([METRICS[name].unit] if name in METRICS else [])
        if name.startswith("directory"):
            continue  # a click shows all runs of a setting
        is_score = name in (table.metric, "")
        (first if is_score else rest).append(_column(column, values, name, title))
    seeds = [str(n) for n in settings["n"]]
    first.append(_column(Column("seeds", True, seeds), settings["n"], "seeds", "that are done"))
    return {
        "title": _cut(board.title),
        "columns": [*first, *of_keys, *rest],
        "settings": [int(setting) for setting in settings.index],
        "names": [_cut(name_of(table, setting)) for setting in settings.index],
        "best": board.best,
        "notes": list(map(_cut, board.notes)),
    }


def _column(
    column: Column, values: Any = None, name: str | None = None, title: str = ""
) -> dict[str, Any]:
    about: dict[str, Any] = {
        "heading": _cut(column.heading if name is None else name),
        "title": title,
        "is_number": column.is_number,
        "cells": list(map(_cut, column.cells)),
    }
    if values is not None:
        about["values"] = [
            _finite(value) if column.is_number else _cut(shown(value)) for value in values
        ]
    return about


def _job(run: SeenRun, sweep: SeenSweep | None) -> dict[str, Any]:
    name = os.path.relpath(run.path, sweep.path) if sweep else run.name
    job: dict[str, Any] = {"name": _cut(name, 300), "run": run.name, "status": _cut(run.status, 40)}
    if run.files is None:
        return job | {"error": _cut(run.problem)}
    figures = run.files.figures()
    most = (run.files.config or {}).get("trainer.max_steps")
    loss = _finite(figures[LOSS])
    return job | {
        "error": _cut(run.files.error),
        "diverged": run.files.diverged,
        "seed": _cut(shown(figures["seed"], 40)),
        "step": figures["step"],
        "max_steps": most if isinstance(most, int) else None,
        "loss": loss if loss is not None else _finite(figures[BEST]),
        "is_final": loss is not None,
        "seconds": _finite(figures["seconds"]),
    }


def _counts(sweep: SeenSweep) -> list[list[Any]]:
    """How many jobs have each status."""
    statuses = [run.status for run in sweep.runs] + [str(e.status) for e in sweep.refused]
    different = dict.fromkeys([*STATUSES, *sorted(set(statuses))])
    counts: list[list[Any]] = [
        [_cut(status, 40), statuses.count(status)] for status in different if status in statuses
    ]
    return counts + [["not begun", sweep.n_waiting]] * (sweep.n_waiting > 0)


def _losses(files: Sequence[RunFiles]) -> Iterable[tuple[float, str]]:
    """The results that may be compared: of all tokens of val; where tokens differ, per character;
    the lowest so far where no run is done."""
    tokens = {
        repr([(k, v) for k, v in (run.config or {}).items() if k.startswith("tokenizer.")])
        + str(run.recorded_keys["corpus_sha256"])
        for run in files
        if run.status == "done"
    }
    figures = [run.figures() for run in files if not run.diverged]
    metric = LOSS if len(tokens) <= 1 else "val/bpc"
    done = [(f[metric], metric) for f in figures if f["status"] == "done"]
    rows = done or [(f[BEST], BEST) for f in figures]
    return [(value, name) for value, name in rows if _finite(value) is not None]


def _changed(directory: RunDirectory, files: RunFiles) -> dict[str, Any]:
    """The keys whose values are not those of the defaults, as [key, value, default]."""
    stored = files.config or {}
    try:
        choices = tuple(sorted(directory.choices.items()))
        defaults = _defaults(choices)
    except LabError:
        rows = [[_cut(key, 300), _cut(shown(value)), None] for key, value in files.swept.items()]
        return {"of": "what its sweep varied", "rows": rows}
    rows = []
    for key, value in stored.items():
        default = defaults.get(key)
        if key not in defaults or (default != value and not _is_open(default)):
            was = shown(default) if key in defaults else None
            rows.append([_cut(key, 300), _cut(label("", value, None)), was])
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
    named = _quoted_key("run", run.path)
    lines = [
        ["evaluate", f"{command('evaluate')} {named}"],
        ["sample", f"{command('generate')} {named} max_new_tokens=500"],
        ["export", f"{command('export')} {named} to=hf folder=exported"],
    ]
    if run.status in ("failed", "killed", "interrupted"):
        lines.insert(0, ["go on", f"{command('train')} {named}"])
    return lines


def _quoted_key(key: str, path: Path) -> str:
    return shlex.quote(f"{key}={_from_here(path)}")


def _typed(path: Path) -> str:
    return shlex.quote(_from_here(path))


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _end_of_log(run: Path) -> str:
    path = run / LOG
    if leads_out(path, run):
        return ""
    with suppress(OSError, ValueError), open_to_read(path, within=run) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MOST_LOG))
        return file.read(MOST_LOG).decode("utf-8", errors="replace")
    return ""


def _pairs(mapping: Any) -> list[list[str]]:
    known: Mapping[Any, Any] = mapping if isinstance(mapping, dict) else {}
    return [[_cut(key, 300), _cut(shown(v))] for key, v in known.items() if v is not None]


def _finite(value: Any) -> float | None:
    """A number as JSON has it; None for what is none."""
    if isinstance(value, bool | str | None) or not hasattr(value, "__float__"):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _cut(text: Any, most: int = MOST) -> str:
    """A text as it can be sent: of at most so many characters, and no half ones."""
    text = str(text).encode(errors="replace").decode()
    return text if len(text) <= most else f"{text[:most]}…"
