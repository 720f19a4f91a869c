"""Runs at equal time, steps, tokens or compute, and what each took to reach a loss.

These are points on their curves. Between two evaluations a curve is taken to be straight; before
the first and behind the last there is nothing.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from lmlab.errors import LabError
from lmlab.runs.directory import SPENT_COLUMNS
from lmlab.sweeps.compare.differences import Measured
from lmlab.sweeps.table.curves import read_curves
from lmlab.sweeps.table.settings import BPC, METRICS, Table
from lmlab.sweeps.table.taken import spent_at
from lmlab.sweeps.table.values import shown
from lmlab.sweeps.table.words import what_is_counted

UNITS = {"s": "seconds", "steps": "steps", "tokens": "tokens", "flops": "FLOPs"}
STRAIGHT = "between two evaluations a curve is taken to be straight"


class At(NamedTuple):
    """A point of training."""

    amount: float
    unit: str  # of UNITS

    def __str__(self) -> str:
        return f"{self.amount:,g} {self.unit}"


def parse_at(text: str) -> At:
    """`30s`, `1000steps`, `2e6tokens`, `1e12flops`.

    Raises:
        LabError: if it is none of these.
    """
    match = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z]+)\s*", text, flags=re.ASCII)
    try:
        amount, unit = float(match[1]), match[2]  # type: ignore[index]
    except (TypeError, ValueError):
        amount, unit = math.nan, ""
    if unit not in UNITS or not 0 <= amount < math.inf:
        raise LabError(
            f"--at {text}: a number and its unit, 30s, 1000steps, 2e6tokens or 1e12flops"
        )
    return At(amount, unit)


def curve_of(table: Table) -> tuple[str, str]:
    """The curve that fits the metric of a table, and its unit."""
    return ("val/bpc", METRICS[BPC].unit) if table.metric == BPC else ("val/loss", "nats per token")


def at_point(table: Table, when: At) -> Measured:
    """The loss of each run at a point of training."""
    tag, unit = curve_of(table)
    values = {
        run: np.interp(when.amount, curve[when.unit], curve[tag], left=np.nan, right=np.nan)
        for run, curve in _curves(table, tag, when.unit).groupby("run")
    }
    return Measured(
        pd.Series(values, dtype="float64"),
        f"{tag} at {when}",
        unit,
        lacking=f"have no evaluations around {when}",
        remarks=_remarks(table, when.unit),
    )


def to_loss(table: Table, loss: float, unit: str) -> Measured:
    """What each run took to reach a loss, in one of UNITS."""
    tag, _ = curve_of(table)
    curves = _curves(table, tag, unit)
    values = {run: _reached(curve[unit], curve[tag], loss) for run, curve in curves.groupby("run")}
    remarks = _remarks(table, unit)
    if n := int((curves.groupby("run")[tag].first() <= loss).sum()):
        remarks.append(f"{n} runs were there by their first evaluation, which counts")
    return Measured(
        pd.Series(values, dtype="float64"),
        f"{UNITS[unit]} to {tag} {shown(loss)}",
        UNITS[unit],
        lacking="did not reach it",
        remarks=remarks,
    )


def _remarks(table: Table, unit: str) -> list[str]:
    """On how the values came about."""
    remarks = [STRAIGHT]
    records = [table.files[run].record for run in table.runs.index[table.runs["counted"]]]
    if unit == "flops":
        remarks.append("FLOPs: of products of matrices, forward and backward")
    if unit == "s":
        remarks.append("seconds: of training to that point, evaluations included")
    return [*remarks, *what_is_counted(records)]


def _reached(x: pd.Series, losses: pd.Series, loss: float) -> float:
    """Where a curve first is at a loss or below; NaN if it never is."""
    below = np.flatnonzero(losses.to_numpy() <= loss)
    if not len(below):
        return math.nan
    last = int(below[0])
    if last == 0:
        return float(x.iloc[0])
    (x0, x1), (high, low) = x.iloc[last - 1 : last + 1], losses.iloc[last - 1 : last + 1]
    return float(x0 + (high - loss) / (high - low) * (x1 - x0))


def _curves(table: Table, tag: str, unit: str) -> pd.DataFrame:
    """The curves of the runs that count, and of those that diverged as far as they go: columns run,
    `unit` and `tag`, in the order of steps."""
    runs = table.runs[table.runs["counted"] | table.runs["diverged"]]
    curves = read_curves(runs, [tag, *SPENT_COLUMNS]).dropna(subset=[tag])
    if unit == "steps":
        curves[unit] = curves["step"]
    else:
        curves[unit] = spent_at(table, curves, "seconds" if unit == "s" else unit)
    return curves.dropna(subset=[unit]).sort_values(["run", "step"])[["run", unit, tag]]
