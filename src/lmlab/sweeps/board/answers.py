"""What the tab shows of sweeps, as JSON. Whatever runs say is text in it, cut where it is
long; figures are those of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lmlab.console import command
from lmlab.errors import LabError
from lmlab.sweeps.board.rows import cut, finite, job_row, typed
from lmlab.sweeps.board.scan import SeenSweep
from lmlab.sweeps.kept import FIT, Kept
from lmlab.sweeps.launch.journal import FAILED
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
from lmlab.sweeps.table.values import heading, short_keys, shown
from lmlab.sweeps.table.words import name_of

NO_REASON = "no reason is recorded"


def listed(sweeps: Iterable[SeenSweep], is_cut: bool) -> dict[str, Any]:
    """A row for each sweep, the one that moved last first; `is_cut`: there may be more."""
    rows = []
    for sweep in sorted(sweeps, key=lambda sweep: -sweep.moved):
        best = min(_losses(sweep.files), default=None)
        rows.append(
            {
                "sweep": sweep.name,
                "title": cut(sweep.title, 300),
                "is_launched": sweep.is_launched,
                "jobs": sum(n for _, n in _counts(sweep)),
                "counts": _counts(sweep),
                "left": _left(sweep),
                "best": best and best[0],
                "metric": best and best[1],
                "moved": sweep.moved or None,
            }
        )
    return {"sweeps": rows, "is_cut": is_cut}


def about_sweep(sweep: SeenSweep, baseline: str = "") -> dict[str, Any]:
    """Jobs, leaderboard, differences to a setting, by its name, or to the best."""
    jobs = [job_row(run, sweep) for run in sweep.runs]
    jobs += [
        {"name": cut(job.name, 300), "run": None, "status": cut(job.status, 40)}
        | {"error": cut(job.error or NO_REASON * (job.status in FAILED))}
        for job in sweep.progress.jobs
        if job.path is None
    ]
    about: dict[str, Any] = {
        "sweep": sweep.name,
        "title": cut(sweep.title, 300),
        "is_launched": sweep.is_launched,
        "counts": _counts(sweep),
        "left": _left(sweep),
        "moved": sweep.moved or None,
        "jobs": jobs,
        "remark": "",
        "leaderboard": None,
        "sections": [],
        "commands": [f"{command('sweep')} {typed(sweep.path)}"],
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
            "title": cut(section.title),
            "columns": [_column(column) for column in section.columns],
            "notes": list(map(cut, section.notes)),
            "lines": list(map(cut, section.lines)),
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


def _asked(table: Table, sweep: SeenSweep, baseline: str) -> tuple[Asked, str]:
    """What the report of the sweep was asked, but for a law, which takes its time; and what is
    wrong with the baseline."""
    asked, remark = Asked(table), ""
    with suppress(LabError, ValueError):  # what it was asked before may have no answer any more
        asked = Asked.from_words(table, Kept.read(sweep.path).asked - {FIT})
    if baseline:
        # Of two that read alike it is the better one.
        named = {cut(name_of(table, i)): int(i) for i in reversed(table.settings.index)}
        if baseline in named:
            asked = replace(asked, baseline=named[baseline])
        else:
            remark = f"no setting is called {cut(baseline, 200)}: the best is the baseline"
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
        _column(column, settings[key], cut(short[heading(key)], 60), cut(heading(key), 300))
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
        "title": cut(board.title),
        "columns": [*first, *of_keys, *rest],
        "settings": [int(setting) for setting in settings.index],
        "names": [cut(name_of(table, setting)) for setting in settings.index],
        "best": board.best,
        "notes": list(map(cut, board.notes)),
    }


def _column(
    column: Column, values: Any = None, name: str | None = None, title: str = ""
) -> dict[str, Any]:
    about: dict[str, Any] = {
        "heading": cut(column.heading if name is None else name),
        "title": title,
        "is_number": column.is_number,
        "cells": list(map(cut, column.cells)),
    }
    if values is not None:
        about["values"] = [
            finite(value) if column.is_number else cut(shown(value)) for value in values
        ]
    return about


def _counts(sweep: SeenSweep) -> list[list[Any]]:
    """How many jobs have each status."""
    counts = Counter(sweep.progress.counts)
    counts.update({"unreadable": sum(run.files is None for run in sweep.runs)})
    known = [*STATUSES, "waiting", "not begun"]
    last = len(known)
    order = sorted(counts, key=lambda one: (known.index(one) if one in known else last, one))
    return [[cut(status, 40), counts[status]] for status in order if counts[status]]


def _left(sweep: SeenSweep) -> list[Any] | None:
    """Seconds until all have ended, and whether that is only the least."""
    left = sweep.progress.left
    return None if left is None else [finite(left.seconds), left.is_least]


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
    return [(value, name) for value, name in rows if finite(value) is not None]
