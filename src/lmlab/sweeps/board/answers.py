"""What the tab shows of sweeps, as JSON. Whatever runs say is text in it, cut where it is
long; figures are those of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lmlab.errors import LabError
from lmlab.sweeps.board.beginnings import commands_of, made_with, question_of
from lmlab.sweeps.board.rows import cut, finite, job_row
from lmlab.sweeps.board.scan import SeenSweep
from lmlab.sweeps.figures.scales import styles_of_settings
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
    if sweep.table is None:
        return _known(sweep)
    sections, remark = _answered(sweep, sweep.table, baseline)
    return {**describe(sweep, sweep.table, sections), "remark": remark}


def figures_of(sweep: SeenSweep, baseline: str = "") -> dict[str, Any]:
    """Vega-Lite by the name of the figure."""
    if sweep.table is None:
        return {}
    sections, _ = _answered(sweep, sweep.table, baseline)
    return drawn(sections)


def describe(sweep: SeenSweep, table: Table, sections: Sequence[Section]) -> dict[str, Any]:
    """What is known of a sweep, and what the sections of its report say, the leaderboard first."""
    about = _known(sweep)
    settings = {
        str(path): int(setting)
        for path, setting in table.runs[["directory", "setting"]].itertuples(index=False)
    }
    for run, job in zip(sweep.runs, about["jobs"], strict=False):
        job["setting"] = settings.get(str(run.path))
    board, *answers = sections
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


def drawn(sections: Sequence[Section]) -> dict[str, Any]:
    """The figures of some sections as Vega-Lite, by their names."""
    charts = {name: chart for section in sections for name, chart in section.figures.items()}
    if not charts:
        return {}
    from lmlab.sweeps.figures.charts import spec_of
    from lmlab.sweeps.figures.learning_curves import BY_COMPUTE

    charts.pop(BY_COMPUTE, None)  # the curves can be shown by compute
    return {name: spec_of(chart) for name, chart in charts.items()}


def _known(sweep: SeenSweep) -> dict[str, Any]:
    """What is known before any run is compared with another."""
    jobs = [job_row(run, sweep) for run in sweep.runs]
    jobs += [
        {"name": cut(job.name, 300), "run": None, "status": cut(job.status, 40)}
        | {"error": cut(job.error or NO_REASON * (job.status in FAILED))}
        for job in sweep.progress.jobs
        if job.path is None
    ]
    return {
        "sweep": sweep.name,
        "title": cut(sweep.title, 300),
        "question": cut(question_of(sweep.path)),
        "is_launched": sweep.is_launched,
        "counts": _counts(sweep),
        "left": _left(sweep),
        "moved": sweep.moved or None,
        "jobs": jobs,
        "remark": "",
        "leaderboard": None,
        "sections": [],
        "commands": commands_of(sweep.path),
        "made_with": made_with(sweep.files),
    }


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


def _answered(sweep: SeenSweep, table: Table, baseline: str) -> tuple[list[Section], str]:
    """The sections of a sweep's report, and what is wrong with the baseline; those of the baseline
    that was asked for last are kept, for its figures are asked for as well."""
    before = sweep.made.get("sections")
    if before is None or before[0] != baseline:
        asked, remark = _asked(table, sweep, baseline)
        before = sweep.made["sections"] = (baseline, _sections(asked, sweep), remark)
    return before[1], before[2]


def _sections(asked: Asked, sweep: SeenSweep) -> list[Section]:
    try:
        answers = list(asked.answers())
    except LabError:
        answers = list(Asked(asked.table, asked.baseline).answers())
    return [leaderboard(asked.table, folder=sweep.path), *answers]


def _leaderboard(table: Table, board: Section) -> dict[str, Any]:
    """The section with rank and score first, then keys by their short names."""
    n_keys, settings = len(table.keys), table.settings
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
    styles = styles_of_settings(table)
    return {
        "title": cut(board.title),
        "columns": [*first, *of_keys, *rest],
        "settings": [int(setting) for setting in settings.index],
        "names": [cut(name_of(table, setting)) for setting in settings.index],
        "styles": [
            [styles[i].colour, styles[i].shape] if i in styles else None for i in settings.index
        ],
        "best": board.best,
        "notes": list(map(cut, board.notes)),
    }


def _column(column: Column) -> dict[str, Any]:
    about: dict[str, Any] = {
        "heading": cut(column.heading),
        "is_number": column.is_number,
        "cells": list(map(cut, column.cells)),
    }
    if column.values is not None:
        about["values"] = [_value(value, column.is_number) for value in column.values]
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
