"""What successive halving spent, from rung to rung."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lmlab.sweeps.report.sections import Column, Section
from lmlab.sweeps.table.settings import Table
from lmlab.sweeps.table.words import duration


def rungs_sections(table: Table) -> Iterator[Section]:
    """A row for each rung, where runs of a table have paused and others of them went on."""
    may_pause = [i for i, files in enumerate(table.files) if "pause_at" in files.record]
    runs = table.runs.loc[may_pause]
    paused = runs.loc[runs["status"] == "paused", "step"]
    ends = runs.loc[runs["status"] == "done", "step"]
    if paused.empty or ends.empty:
        return
    stands = runs["step"].fillna(0).to_numpy(dtype=float)
    taken = runs["seconds"].fillna(0).to_numpy(dtype=float)
    a_step = np.divide(taken, stands, out=np.zeros_like(taken), where=stands > 0)
    bounds = sorted({*map(int, paused), int(ends.max())})
    came, settings, steps, seconds = [], [], [], []
    for before, bound in zip([0, *bounds], bounds, strict=False):
        of_each = np.clip(stands, None, bound) - before
        of_each[of_each < 0] = 0
        is_there = stands >= bound
        came.append(int(is_there.sum()))
        settings.append(int(runs.loc[is_there, "setting"].nunique()))
        steps.append(int(of_each.sum()))
        seconds.append(float((of_each * a_step).sum()))
    whole = sum(steps)
    columns = [
        Column("to step", True, [f"{bound:,}" for bound in bounds], bounds),
        Column("settings", True, list(map(str, settings)), settings),
        Column("runs", True, list(map(str, came)), came),
        Column("steps", True, [f"{n:,}" for n in steps], steps),
        Column("of all", True, [f"{n / whole:.0%}" for n in steps], [n / whole for n in steps]),
        Column("time", True, list(map(duration, seconds)), seconds),
    ]
    notes = ["settings, runs: those that came to the step; steps and time: from the rung before"]
    yield Section("halving", columns, notes)
