"""What the tab shows of sweeps, as JSON. Whatever runs say is text in it, cut where it is
long; figures are those of the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lmlab.sweeps.board.asking import Question, Replies, answered
from lmlab.sweeps.board.beginnings import commands_of, made_with, question_of
from lmlab.sweeps.board.laws import Laws
from lmlab.sweeps.board.rows import cut, finite, job_row
from lmlab.sweeps.board.scan import SeenSweep
from lmlab.sweeps.figures.scales import styles_of_settings
from lmlab.sweeps.journal.journal import FAILED
from lmlab.sweeps.report.sections import Column, Section
from lmlab.sweeps.table.reading import RunFiles
from lmlab.sweeps.table.settings import (
    BEST,
    METRICS,
    STATUSES,
    Table,
    fitting_metric,
)
from lmlab.sweeps.table.values import heading, short_keys, shown
from lmlab.sweeps.table.words import name_of

NO_REASON = "no reason is recorded"
MOST_JOBS = 500  # in an answer about a sweep; where there are more they are asked for by the page
PAGE = 200
MOST_ROWS = 500  # of a table of settings


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


def about_sweep(sweep: SeenSweep, question: Question, laws: Laws) -> dict[str, Any]:
    """Jobs, leaderboard, differences, and whatever else is asked."""
    if sweep.table is None:
        return _known(sweep, None, MOST_JOBS)
    replies = _replies(sweep, sweep.table, question, laws)
    about = describe(sweep, sweep.table, replies.sections, MOST_JOBS)
    return {**about, "remarks": replies.remarks, "law": replies.law}


def figures_of(sweep: SeenSweep, question: Question, laws: Laws) -> dict[str, Any]:
    """Vega-Lite by the name of the figure."""
    if sweep.table is None:
        return {}
    return drawn(_replies(sweep, sweep.table, question, laws).sections)


def _replies(sweep: SeenSweep, table: Table, question: Question, laws: Laws) -> Replies:
    """Those to the question of last time are kept: the figures are of the same."""
    asked = question, laws.version_of(sweep)
    if sweep.made.get("asked") != asked:
        sweep.made.update(replies=answered(sweep, table, question, laws), asked=asked)
    replies: Replies = sweep.made["replies"]
    return replies


def describe(
    sweep: SeenSweep, table: Table, sections: Sequence[Section], most_jobs: int
) -> dict[str, Any]:
    """What is known of a sweep, and what the sections of its report say, the leaderboard first."""
    board, *answers = sections
    return _known(sweep, table, most_jobs) | {
        "leaderboard": _leaderboard(table, board),
        "sections": list(map(_section, answers)),
    }


def jobs_of(sweep: SeenSweep, setting: str, page: str) -> dict[str, Any]:
    """The jobs of a setting, or of all: PAGE of them, the pages counted from 1."""
    jobs = _jobs(sweep, sweep.table)
    if setting:
        jobs = [job for job in jobs if str(job.get("setting")) == setting]
    n_pages = max(1, math.ceil(len(jobs) / PAGE))
    number = min(int(page), n_pages) if page.isdecimal() and 0 < len(page) < 9 else 1
    first = max(0, number - 1) * PAGE
    shown = jobs[first : first + PAGE]
    return {"jobs": shown, "page": max(1, number), "pages": n_pages, "n_jobs": len(jobs)}


def drawn(sections: Sequence[Section]) -> dict[str, Any]:
    """The figures of some sections as Vega-Lite, by their names."""
    charts = {name: chart for section in sections for name, chart in section.figures.items()}
    if not charts:
        return {}
    from lmlab.sweeps.figures.charts import spec_of
    from lmlab.sweeps.figures.learning_curves import BY_COMPUTE

    charts.pop(BY_COMPUTE, None)  # the curves can be shown by compute
    return {name: spec_of(chart) for name, chart in charts.items()}


def _known(sweep: SeenSweep, table: Table | None, most_jobs: int) -> dict[str, Any]:
    """What is known before any run is compared with another."""
    jobs = _jobs(sweep, table)
    is_partial = len(jobs) > most_jobs
    first = sorted(jobs, key=_urgency)[:most_jobs] if is_partial else jobs
    return {
        "sweep": sweep.name,
        "title": cut(sweep.title, 300),
        "question": cut(question_of(sweep.path)),
        "is_launched": sweep.is_launched,
        "counts": _counts(sweep),
        "left": _left(sweep),
        "moved": sweep.moved or None,
        "jobs": first,
        "n_jobs": len(jobs),
        "is_partial": is_partial,
        "remarks": [],
        "law": "",
        "leaderboard": None,
        "sections": [],
        "commands": commands_of(sweep.path),
        "made_with": made_with(sweep.files),
    }


def _jobs(sweep: SeenSweep, table: Table | None) -> list[dict[str, Any]]:
    """A row for each, with the setting that it is of."""
    jobs = [job_row(run, sweep) for run in sweep.runs]
    if table is not None:
        runs = table.runs[["directory", "setting"]].itertuples(index=False)
        settings = {str(path): int(setting) for path, setting in runs}
        for run, job in zip(sweep.runs, jobs, strict=True):
            job["setting"] = settings.get(str(run.path))
    return jobs + [
        {"name": cut(job.name, 300), "run": None, "status": cut(job.status, 40)}
        | {"error": cut(job.error or NO_REASON * (job.status in FAILED))}
        for job in sweep.progress.jobs
        if job.path is None
    ]


def _urgency(job: dict[str, Any]) -> int:
    """Where all cannot be shown: those at work first, then what went wrong."""
    return 0 if job["status"] == "running" else 1 if job.get("error") else 2


def _section(section: Section) -> dict[str, Any]:
    n, lines = len(section.columns[0].cells) if section.columns else 0, section.lines
    best = section.best if section.best is not None and section.best < MOST_ROWS else None
    return {
        "title": cut(section.title),
        "columns": [_column(column) for column in section.columns],
        "notes": [*_how_many(n), *map(cut, section.notes)],
        "lines": list(map(cut, lines[:MOST_ROWS])),
        "best": best,
    }


def _how_many(n: int) -> list[str]:
    """Of so many rows, if not all are shown."""
    return [f"the first {MOST_ROWS:,} of {n:,} are shown"] if n > MOST_ROWS else []


def _leaderboard(table: Table, board: Section) -> dict[str, Any]:
    """The section with rank and score first, then keys by their short names."""
    n_keys, settings = len(table.keys), table.settings.head(MOST_ROWS)
    keys, others = board.columns[:n_keys], board.columns[n_keys:]
    short = short_keys(map(heading, table.keys))
    of_keys = [
        _column(replace(column, heading=short[column.heading]))
        | {"title": cut(column.heading, 300)}
        for column in keys
    ]
    first: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for column in others:
        if column.heading.startswith("directory"):
            continue  # a click shows all runs of a setting
        unit = METRICS[column.heading].unit if column.heading in METRICS else ""
        is_score = column.heading in (table.metric, "")
        (first if is_score else rest).append(_column(column) | {"title": unit})
    seeds = Column("seeds", True, [str(n) for n in settings["n"]], list(settings["n"]))
    first.append(_column(seeds) | {"title": "that are done"})
    styles, n_runs = styles_of_settings(table), table.runs["setting"].value_counts()
    return {
        "title": cut(board.title),
        "columns": [*first, *of_keys, *rest],
        "settings": [int(setting) for setting in settings.index],
        "names": [cut(name_of(table, setting)) for setting in settings.index],
        "n_runs": [int(n_runs[setting]) for setting in settings.index],
        "styles": [
            [styles[i].colour, styles[i].shape] if i in styles else None for i in settings.index
        ],
        "best": board.best,
        "notes": [*_how_many(len(table.settings)), *map(cut, board.notes)],
    }


def _column(column: Column) -> dict[str, Any]:
    about: dict[str, Any] = {
        "heading": cut(column.heading),
        "is_number": column.is_number,
        "cells": list(map(cut, column.cells[:MOST_ROWS])),
    }
    if column.values is not None:
        values = column.values[:MOST_ROWS]
        about["values"] = [_value(value, column.is_number) for value in values]
    return about


def _value(value: Any, is_number: bool) -> Any:
    """What is sorted by, as JSON has it."""
    if isinstance(value, tuple):
        return [finite(part) for part in value]
    return finite(value) if is_number else cut(shown(value))


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
    figures = [run.figures() for run in files if not run.diverged]
    metric = fitting_metric(run for run in files if run.status == "done")
    done = [(f[metric], metric) for f in figures if f["status"] == "done"]
    rows = done or [(f[BEST], BEST) for f in figures]
    return [(value, name) for value, name in rows if finite(value) is not None]
