"""The first section of a report: every setting, the best first, and what went wrong."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmlab.files import path_name
from lmlab.runs.directory import LOG
from lmlab.sweeps.compare.differences import compare
from lmlab.sweeps.kept import LEADERBOARD_CSV, RUNS_CSV
from lmlab.sweeps.report.notes import notes
from lmlab.sweeps.report.sections import Column, Section, exact, key_columns
from lmlab.sweeps.report.verdicts import marks, notes_on_marks
from lmlab.sweeps.table.settings import (
    BEST,
    LOSS,
    METRICS,
    RUN_COLUMNS,
    SETTING_COLUMNS,
    Table,
    count_by_status,
)
from lmlab.sweeps.table.values import canonical, heading, is_missing
from lmlab.sweeps.table.words import count, duration, figure

if TYPE_CHECKING:
    from lmlab.sweeps.figures.charts import Chart

ACCURACY = re.compile(r"tasks/[^/]+/accuracy$")
ENDED_BADLY = ("failed", "killed", "interrupted")


def leaderboard(
    table: Table, chosen: Sequence[int] | None = None, folder: Path | None = None
) -> Section:
    """All settings of a table, or those `chosen`; directories are told as seen from `folder`."""
    chosen = list(table.settings.index) if chosen is None else list(chosen)
    settings = table.settings.loc[chosen]
    to_best = compare(table, chosen)
    signs = marks(to_best)

    columns = key_columns(table, settings)
    if table.varies("parameters"):
        columns.append(_column("parameters", count, settings["parameters"]))
    for metric in dict.fromkeys((table.metric, LOSS, BEST)):
        spread = zip(settings[metric], settings[f"{metric} sd"], strict=True)
        columns.append(Column(metric, True, _figures(settings, metric), list(spread)))
        if metric == table.metric and signs:
            columns.append(Column("", False, [signs.get(place, "") for place in chosen]))
    columns += _task_columns(table, chosen)
    if table.settings["seconds"].notna().any():
        columns.append(_column("time", duration, settings["seconds"]))
    if table.varies("step"):
        columns.append(_column("steps", count, settings["step"]))
    columns.append(Column("status", False, list(settings["status"])))
    title = "directory of the best" if len(table.runs) > len(table.settings) else "directory"
    columns.append(Column(title, False, [below(path, folder) for path in settings["directory"]]))

    return Section(
        summary(table),
        columns,
        [*notes(table), *notes_on_marks(to_best)],
        best=chosen.index(table.best) if table.best in chosen else None,
        is_wide=True,
        lines=failures(table, folder),
        files=partial(_files, table, folder),
        draw=partial(_figures_of, table),
    )


def _column(title: str, text: Callable[[float], str], values: pd.Series) -> Column:
    return Column(title, True, list(map(text, values)), list(values))


def _task_columns(table: Table, chosen: Sequence[int]) -> list[Column]:
    """The accuracy in each task that runs were asked, mean and deviation over counted seeds."""
    metrics = {i: run.metrics for i, run in enumerate(table.files)}
    asked = {name: None for of_run in metrics.values() for name in of_run if ACCURACY.match(name)}
    counted = table.runs[table.runs["counted"]]
    columns = []
    for name in asked:
        values = counted.index.map(lambda i, name=name: metrics[i].get(name, math.nan))
        of_setting = pd.Series(values, counted["setting"], dtype=float).groupby(level=0)
        means, deviations = of_setting.mean().reindex(chosen), of_setting.std().reindex(chosen)
        pairs = [*zip(means, deviations, strict=True)]
        cells = ["" if math.isnan(mean) else figure(mean, sd) for mean, sd in pairs]
        columns.append(Column(name, True, cells, pairs))
    return columns


def best_of_each(table: Table, by: Sequence[str]) -> list[int]:
    """The settings; of those with the same values for the keys `by`, only the best."""
    values = table.settings[list(by)].map(canonical)
    return list(values.drop_duplicates().index if by else values.index)


def summary(table: Table) -> str:
    """`12 runs: 11 done, 1 failed; 4 settings`."""
    n, n_settings = len(table.runs), len(table.settings)
    settings = f"; {n_settings} settings" if n_settings < n else ""
    return f"{n} {'run' if n == 1 else 'runs'}: {count_by_status(table.runs['status'])}{settings}"


def failures(table: Table, folder: Path | None) -> list[str]:
    """Each run that ended badly, with its reason and its log; each record that cannot be read."""
    bad = table.runs[table.runs["status"].isin(ENDED_BADLY)].sort_index()
    lines = []
    for status, error, directory in bad[["status", "error", "directory"]].itertuples(index=False):
        lines.append(f"{status}  {below(directory, folder)}")
        lines.append(f"    {error or 'no reason is recorded'}")
        if (log := Path(directory, LOG)).is_file():
            lines.append(f"    log: {below(log, folder)}")
    return [*lines, *(f"unreadable  {reason}" for reason in table.unreadable)]


def below(path: str | Path, folder: Path | None) -> str:
    """A path as seen from a folder, if it lies in it."""
    if folder is not None and Path(path).resolve().is_relative_to(folder.resolve()):
        return os.path.relpath(path, folder)
    return str(path)


def _figures(settings: pd.DataFrame, metric: str) -> list[str]:
    """Means and deviations; a setting that diverged has `nan`, one without a result nothing."""
    cells = map(figure, settings[metric], settings[f"{metric} sd"])
    empty = settings[metric].isna() & ~_diverged(settings[metric], metric, _has_ended(settings))
    return ["" if is_empty else cell for cell, is_empty in zip(cells, empty, strict=True)]


def _has_ended(settings: pd.DataFrame) -> pd.Series:
    """The settings with a result: a seed is done, or diverged."""
    return (settings["n"] > 0) | (settings["diverged"] > 0)


def _diverged(values: pd.Series, metric: str, has_ended: pd.Series) -> pd.Series:
    """Where NaN is the result: a run that is done has a final loss, though perhaps no best one."""
    return values.isna() & has_ended & (metric != BEST)


def _files(table: Table, folder: Path | None) -> dict[str, pd.DataFrame]:
    of_settings = table.settings[[*table.keys, *SETTING_COLUMNS]]
    of_runs = table.runs[[*table.keys, *RUN_COLUMNS]]
    is_done = table.runs["status"] == "done"
    return {
        LEADERBOARD_CSV: _rows(of_settings, table.keys, _has_ended(table.settings), folder),
        RUNS_CSV: _rows(of_runs, [*table.keys, "seed"], is_done, folder),
    }


def _rows(
    frame: pd.DataFrame, keys: Sequence[str], has_ended: pd.Series, folder: Path | None
) -> pd.DataFrame:
    """For a CSV file: a row for each setting or run, figures in full precision."""
    frame = frame.astype(dict.fromkeys(METRICS, object))
    for key in keys:
        frame[key] = frame[key].map(exact)
    for metric in METRICS:
        frame.loc[_diverged(frame[metric], metric, has_ended), metric] = "nan"
    frame["directory"] = [below(path, folder) for path in frame["directory"]]
    return frame


def _figures_of(table: Table) -> Iterator[tuple[str, Chart]]:
    """Every figure that the table has enough runs for."""
    from lmlab.sweeps.compare import widths
    from lmlab.sweeps.figures import learning_curves, losses, width_charts

    if widths.varies_width(table):
        if widths.RATE in table.keys and (panels := widths.panels_of(table, widths.RATE)):
            yield "rate-by-width", width_charts.by_rate(table, panels)
        panels, sizes = widths.panels_of(table), widths.activation_sizes(table)
        if panels and len(sizes):
            yield "activations-by-width", width_charts.by_width(table, panels, sizes)
    has_loss = np.isfinite(table.loss)
    for key in table.keys:
        if (has_loss & ~table.settings[key].map(is_missing)).any():
            yield f"loss-by-{path_name(heading(key))}", losses.by_key(table, key)
    if not table.keys and (table.runs["counted"] | table.runs["diverged"]).sum() > 2:
        yield "loss-by-seed", losses.by_seed(table)
    if losses.is_grid(table):
        yield "heat-map", losses.heat_map(table)
    parameters = table.settings["parameters"]
    if parameters.nunique() > 1 and (has_loss & (parameters > 0)).any():
        yield "loss-by-parameters", losses.by_parameters(table)
    curves = learning_curves.curves_of(table)
    if curves is not None:
        yield learning_curves.CURVES, learning_curves.loss_curves(curves)
        if curves.differ_in_cost:
            by_compute = learning_curves.loss_curves(curves, "flops", on_log=True)
            yield learning_curves.BY_COMPUTE, by_compute
