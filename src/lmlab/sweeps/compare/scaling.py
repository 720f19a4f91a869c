"""What a sweep over sizes and budgets says of larger ones: a law, its intervals, its misses.

A point is what runs of one size and one number of tokens reached: the mean over their seeds. The
intervals come from a bootstrap: settings are drawn again with replacement, and within each its
seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lmlab.errors import LabError
from lmlab.sweeps.compare.law import OPERATIONS, Array, Law, fit
from lmlab.sweeps.table.settings import BEST, Table, count_by_status
from lmlab.sweeps.table.words import what_is_counted

CONSTANTS = tuple(constant.name for constant in fields(Law))
LEAST_POINTS = 7  # five constants, and something left over to be wrong about
LEAST_VALUES = 3  # of sizes, and of numbers of tokens
ON_A_LINE = 0.995  # a correlation of log N and log D beyond which they are one thing, not two
ONE_BUDGET = 1.15  # budgets that differ by less are one: steps are whole numbers
MORE = 1.2  # 6 N D beyond so many times the operations of a run are not what it computed
RESAMPLES = 400
LEVEL = 0.95
BEYOND = 10  # times the largest budget, for a look ahead
FORMULA = "L(N, D) = E + A / N^alpha + B / D^beta"


@dataclass(frozen=True)
class Interval:
    """A figure and where it may well lie; NaN where nobody can tell."""

    value: float
    low: float = math.nan
    high: float = math.nan


class Optimum(NamedTuple):
    """Where a budget of operations is spent best, and the loss there."""

    compute: float
    parameters: Interval
    tokens: Interval
    loss: Interval


@dataclass(frozen=True)
class HeldOut:
    """What a law says of points that it has not seen."""

    what: str  # `the largest size`
    law: Law
    points: pd.DataFrame  # rows of `Scaling.points`, with the column predicted


@dataclass(frozen=True)
class Scaling:
    """A law and all that was asked of it.

    `points` has a row per size and number of tokens: parameters, parameters_all, tokens, compute,
    passes over the train split (NaN if not recorded), loss, sd, n (seeds), setting.
    """

    metric: str
    points: pd.DataFrame
    law: Law
    draws: list[Law]  # of the bootstrap
    held_out: list[HeldOut]
    of_all_parameters: Law  # embeddings and read-out counted, too
    remarks: list[str] = field(default_factory=list)

    def constant(self, name: str) -> Interval:
        """One of CONSTANTS with its interval."""
        return interval(getattr(self.law, name), [getattr(law, name) for law in self.draws])

    def at(self, compute: float, quantity: Callable[[Law, float], Array]) -> Interval:
        """Something that follows from the law at a budget: `Law.best_parameters`, say."""
        drawn = [float(quantity(law, compute)) for law in self.draws]
        return interval(float(quantity(self.law, compute)), drawn)

    def optima(self) -> list[Optimum]:
        """Of each budget that was spent, and of one BEYOND."""
        quantities = (Law.best_parameters, Law.best_tokens, Law.best_loss)
        return [
            Optimum(budget, *(self.at(budget, quantity) for quantity in quantities))
            for budget in [*self.budgets, BEYOND * self.budgets[-1]]
        ]

    @property
    def budgets(self) -> list[float]:
        """The budgets that were spent, in operations."""
        return [float(np.exp(np.log(budget).mean())) for budget in _budgets(self.points)]


def interval(value: float, drawn: Iterable[float]) -> Interval:
    """Where the middle 95 % of draws lie; draws in which it is not determined lie at both ends."""
    known = np.sort([x for x in drawn if not math.isnan(x)])
    if not len(known):
        return Interval(value)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def scaling_of(
    table: Table,
    seed: int = 0,
    resamples: int = RESAMPLES,
    advance: Callable[[], object] = lambda: None,
) -> Scaling:
    """Fit a law to the runs of a table; `advance` is called after each resample.

    Raises:
        LabError: if the runs do not determine one, with what is missing.
    """
    points, remarks = points_of(table)
    check(points)
    law = fit_points(points)
    rng = np.random.default_rng(seed)
    runs = _losses_by_point(table, points)
    draws = []
    for _ in range(resamples):
        draws.append(_resampled(points, runs, rng))
        advance()
    of_all = fit(points["parameters_all"], points["tokens"], points["loss"])
    return Scaling(table.metric, points, law, draws, held_out(points), of_all, remarks)


def points_of(table: Table) -> tuple[pd.DataFrame, list[str]]:
    """The points of a table, largest budget last, and what to say of what was left out.

    Raises:
        LabError: for runs of several texts or tokenizers, whose tokens are not to be compared.
    """
    for key in table.keys:
        if key.startswith(("corpus", "tokenizer")):
            raise LabError(f"--fit: the runs differ in {key}, so their tokens are not the same")
    if table.metric == BEST:
        raise LabError(
            "--fit: give val/loss_full or val/bpc_full; a best loss is the best of several"
        )
    remarks = []
    diverged = table.settings.index[table.settings["diverged"] > 0]
    lost = table.runs["setting"].isin(diverged)
    runs = table.runs[table.runs["counted"] & ~lost & np.isfinite(table.runs[table.metric])]
    if len(left := table.runs[~table.runs["counted"]]):
        remarks.append(f"left out: {count_by_status(left['status'])}")
    if n_lost := int((table.runs["counted"] & lost).sum()):
        remarks.append(f"left out: {n_lost} in settings with a seed that diverged")

    records = [table.files[i].record for i in runs.index]
    inside = pd.Series([_count(r.get("parameters_inside")) for r in records], runs.index, float)
    everything = runs["parameters"].astype(float)
    if inside.isna().any():
        remarks.append("N is of all parameters: some runs do not say how many are embeddings")
        inside = everything
    train_tokens = pd.Series([_count(r.get("train_tokens")) for r in records], runs.index, float)
    tokens = runs["tokens"].astype(float)
    frame = pd.DataFrame(
        {
            "setting": runs["setting"],
            "parameters": inside,
            "parameters_all": everything,
            "tokens": tokens,
            "passes": tokens / train_tokens,
            "loss": runs[table.metric],
        }
    )
    frame = frame[(frame[["parameters", "tokens"]] > 0).all(axis=1)]
    settings = frame.groupby("setting")
    points = settings.mean().assign(sd=settings["loss"].std(), n=settings.size()).reset_index()
    points["compute"] = OPERATIONS * points["parameters"] * points["tokens"]
    remarks += _on_compute(frame, [table.files[i].record for i in frame.index])
    points = points.sort_values("loss", kind="stable")
    best = points.drop_duplicates(["parameters", "tokens"])
    if len(best) < len(points):
        remarks.append(
            f"of settings with one size and one number of tokens only the best counts: "
            f"{len(best)} of {len(points)}"
        )
    return best.sort_values(["compute", "parameters"]).reset_index(drop=True), remarks


def _on_compute(frame: pd.DataFrame, records: Sequence[dict[str, Any]]) -> list[str]:
    """What to say of D and of 6 N D, where some runs took another number of operations."""
    own = [_count(r.get("flops")) - np.nan_to_num(_count(r.get("teacher_flops"))) for r in records]
    lines = what_is_counted(records)
    if (OPERATIONS * frame["parameters"] * frame["tokens"] > MORE * np.array(own)).any():
        lines.append(
            "6 N D is more than some runs computed (networks of an ensemble share the tokens out "
            "among them, and tables are looked up): their budgets were smaller"
        )
    return lines


def _count(value: object) -> float:
    return float(value) if isinstance(value, int) and value > 0 else math.nan


def check(points: pd.DataFrame) -> None:
    """Whether points can determine a law.

    Raises:
        LabError: with what is missing.
    """
    if not len(points):
        raise LabError("--fit: no run is done that has parameters and a finite loss")
    if (points["loss"] <= 0).any():
        raise LabError("--fit: a loss of zero or less has no logarithm")
    for column, what, key in (
        ("parameters", "size", "model.n_embd"),
        ("tokens", "number of tokens", "trainer.max_steps"),
    ):
        if (n := points[column].nunique()) < LEAST_VALUES:
            raise LabError(
                f"--fit: {n} {what}{'s' * (n > 1)} among the runs that are done, and a law needs "
                f"{LEAST_VALUES} or more; vary {key}"
            )
    if len(_budgets(points)) < 2:
        raise LabError(
            f"--fit: one budget of {points['compute'].mean():.2g} operations, where more "
            "parameters always go with fewer tokens; add other budgets to tell the two apart"
        )
    if len(points) < LEAST_POINTS:
        raise LabError(
            f"--fit: {len(points)} settings are done, and a law of five constants needs "
            f"{LEAST_POINTS} or more; add sizes or budgets"
        )
    if abs(_correlation(points)) > ON_A_LINE:
        raise LabError(
            "--fit: tokens follow from parameters in these runs, so the two cannot be told apart; "
            "train each size on several numbers of tokens"
        )


def _correlation(points: pd.DataFrame) -> float:
    return float(np.corrcoef(np.log(points["parameters"]), np.log(points["tokens"]))[0, 1])


def _budgets(points: pd.DataFrame) -> list[Array]:
    """The compute of points, those that share a budget together, ascending."""
    ascending = np.sort(points["compute"].to_numpy(float))
    cuts = np.flatnonzero(ascending[1:] > ONE_BUDGET * ascending[:-1]) + 1
    return np.split(ascending, cuts)


def fit_points(points: pd.DataFrame) -> Law:
    return fit(points["parameters"], points["tokens"], points["loss"])


def _losses_by_point(table: Table, points: pd.DataFrame) -> list[Array]:
    runs = table.runs[table.runs["counted"]]
    return [
        runs[table.metric][runs["setting"] == setting].to_numpy(float)
        for setting in points["setting"]
    ]


def _resampled(points: pd.DataFrame, runs: Sequence[Array], rng: np.random.Generator) -> Law:
    """The law of as many settings, drawn with replacement, each of as many of its seeds."""
    while True:
        drawn = points.iloc[rng.integers(len(points), size=len(points))]
        few = [drawn[column].nunique() < LEAST_VALUES for column in ("parameters", "tokens")]
        if not any(few) and abs(_correlation(drawn)) < ON_A_LINE:
            break
    losses = [rng.choice(runs[i], size=len(runs[i])).mean() for i in drawn.index]
    return fit(drawn["parameters"], drawn["tokens"], losses)


def held_out(points: pd.DataFrame) -> list[HeldOut]:
    """The largest size, and the largest budget, as the rest predicts them; where the rest can."""
    largest = points["parameters"] == points["parameters"].max()
    dearest = points["compute"] >= _budgets(points)[-1][0]
    parts = []
    for what, is_out in (("largest size", largest), ("largest budget", dearest)):
        try:
            check(points[~is_out])
        except LabError:
            continue
        law = fit_points(points[~is_out])
        out = points[is_out]
        predicted = law.loss(out["parameters"], out["tokens"])
        parts.append(HeldOut(what, law, out.assign(predicted=predicted)))
    return parts
