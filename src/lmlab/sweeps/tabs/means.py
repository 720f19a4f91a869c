"""The mean over seeds of each setting, and which runs are the best: what TensorBoard is shown
beside, or instead of, what stands on disk."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from lmlab.display.for_tensorboard.board import MOST_TICKED
from lmlab.sweeps.board.scan import Scan, SeenRun, SeenSweep
from lmlab.sweeps.table.curves import Curves, averaged, mean_curves, names_of_settings
from lmlab.sweeps.table.reading import started
from lmlab.sweeps.table.settings import BEST, BPC, LOSS, Table, fitting_metric

SECONDS = 20.0  # between two looks at which runs are the best
FOLDER = "mean"  # of the names of means, below that of their sweep
# The figures of the leaderboard, by the tags that runs have at their end.
AT_END = {LOSS: LOSS, BPC: BPC, BEST: "val/loss_best", "seconds": "train/seconds"}


@dataclass(frozen=True)
class Mean:
    """A setting of which two seeds or more have something to show."""

    name: str
    runs: tuple[SeenRun, ...]  # all of the setting, also those that are not in the curves
    status: str  # done, running or failed
    curves: Curves  # those of AT_END have one point
    started: float | None  # seconds since the epoch
    moved: float  # when a file of its runs was last written


@dataclass(frozen=True)
class Shown:
    """What a board shows at some time."""

    means: Mapping[str, Mean]  # by name
    best: frozenset[str] | None  # runs by name; None: all
    summary: str  # of `best`

    def shows(self, run: str) -> bool:
        """Whether it shows a run that TensorBoard has found."""
        return self.best is None or run in self.best


class Choice:
    """What is to be shown of the runs that a scan sees, and the means of their settings.

    A mean is made again where one of its runs has news.
    """

    def __init__(self, scan: Scan, top: int | None = None):
        """`top`: the best runs alone, so many, and as many means as are ticked beside them."""
        self._scan, self._top = scan, top
        self._choosing = threading.Lock()
        self._made: dict[str, tuple[str, list[Mean]]] = {}  # by sweep: of which version
        self._best: list[str] = []
        self._by, self._looked = "", -math.inf  # on the monotonic clock

    def now(self) -> Shown:
        """Which are the best is looked up every SECONDS."""
        with self._choosing:
            sweeps = self._scan.sweeps()
            for name, sweep in sweeps.items():
                version, before = self._made.get(name, ("", []))
                if version != sweep.version:
                    self._made[name] = sweep.version, _means(sweep, before)
            for gone in self._made.keys() - sweeps.keys():
                del self._made[gone]
            places = [(i, m) for _, means in self._made.values() for i, m in enumerate(means)]
            ranked = [mean for _, mean in sorted(places, key=lambda pair: pair[0])]
            if self._top is None:
                return Shown({m.name: m for m in ranked}, None, "")
            if time.monotonic() - self._looked > SECONDS:
                self._best, self._by = best_runs(sweeps.values(), self._top)
                self._looked = time.monotonic()
            means = ranked[: max(MOST_TICKED - len(self._best), 0)]
            n_runs = sum(len(sweep.files) for sweep in sweeps.values())
            summary = f"the best {len(self._best)} of {n_runs} runs by {self._by}"
            if ranked:
                of = "" if len(means) == len(ranked) else f" of {len(ranked)}"
                summary += f", and the mean over seeds of {len(means)}{of} settings"
            return Shown({m.name: m for m in means}, frozenset(self._best), summary)


def best_runs(sweeps: Iterable[SeenSweep], n: int) -> tuple[list[str], str]:
    """The names of the best `n` runs of all, as a leaderboard of them sorts them, and by which
    metric."""
    names = {run.path: run.name for sweep in sweeps for run in sweep.runs}
    files = sorted((files for sweep in sweeps for files in sweep.files), key=started)
    metric = fitting_metric(files)
    figures = pd.DataFrame([run.figures() for run in files], columns=[metric, BEST])
    order = figures.astype("float64").sort_values([metric, BEST], kind="stable").index
    return [names[files[i].path] for i in order[:n]], metric


def _means(sweep: SeenSweep, before: Sequence[Mean]) -> list[Mean]:
    """Of a sweep; the curves of those `before` stand where their runs have no news."""
    table = sweep.table
    if table is None:
        return []
    of_curves = averaged(table.runs)
    names = names_of_settings(table, sorted(of_curves["setting"].unique()))
    seen = {str(run.path): run for run in sweep.runs}
    paths = table.runs.groupby("setting")["directory"]
    runs = {setting: tuple(seen[path] for path in paths.get_group(setting)) for setting in names}
    known = {_news(mean.runs): mean.curves for mean in before}
    new = [setting for setting in names if _news(runs[setting]) not in known]
    made = mean_curves(of_curves[of_curves["setting"].isin(new)])
    folder = FOLDER if sweep.name == "." else f"{sweep.name}/{FOLDER}"
    return [
        Mean(
            name=f"{folder}/{name}",
            runs=runs[setting],
            status=_status(table, setting),
            curves=made[setting] | _at_end(table, setting)
            if setting in made
            else known[_news(runs[setting])],
            started=_began(runs[setting]),
            moved=max(time for run in runs[setting] for time, _ in run.stamp) / 1e9,
        )
        for setting, name in names.items()
    ]


def _news(runs: Iterable[SeenRun]) -> tuple[object, ...]:
    """What changes with whatever a mean of these runs is made of."""
    return tuple((run.name, run.stamp, run.status) for run in runs)


def _at_end(table: Table, setting: int) -> Curves:
    """The figures of the leaderboard; none where a seed diverged, or none is done."""
    figures = table.settings.loc[setting, [*AT_END, "step"]].astype("float64")
    step = 0 if pd.isna(figures["step"]) else round(figures["step"])
    there = figures[list(AT_END)].dropna()
    return {AT_END[str(name)]: [(step, float(value))] for name, value in there.items()}


def _status(table: Table, setting: int) -> str:
    of_setting = table.runs[table.runs["setting"] == setting]
    if of_setting["status"].eq("running").any():
        return "running"
    ended_well = of_setting["status"].isin(["done", "paused", "pruned"]) & ~of_setting["diverged"]
    return "done" if ended_well.all() else "failed"


def _began(runs: Iterable[SeenRun]) -> float | None:
    """When the first of some runs did."""
    times = []
    for run in runs:
        text = run.files.record.get("started") if run.files else None
        try:
            times.append(datetime.fromisoformat(str(text)).timestamp())
        except (ValueError, OverflowError, OSError):  # a damaged record may hold anything
            continue
    return min(times, default=None)
