"""A search by its runs: how it went on, and which of the keys it searched mattered."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmlab.sweeps.table.settings import BEST, Table
from lmlab.sweeps.table.values import is_missing, is_number, label, wants_log

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STUDIES = ("study.journal", "study.db")  # what an Optuna study is kept in
FEWEST = 10  # trials whose importances say anything


@dataclass(frozen=True)
class Trials:
    """The trials of a study, in the order in which they were begun.

    `runs` has a row for each that has a loss: number (from 1), loss and is_pruned; `values` has the
    same rows, and a column for each key. The loss of one that was pruned is its best so far.
    """

    table: Table
    runs: pd.DataFrame
    values: pd.DataFrame

    @property
    def keys(self) -> list[str]:
        return list(self.values)

    @property
    def best(self) -> pd.Series:
        """The trial with the lowest loss of those that were not pruned."""
        return self.runs.loc[self.runs["loss"].mask(self.runs["is_pruned"]).idxmin()]


def trials_of(table: Table) -> Trials | None:
    """None where the runs are of no study, or none of its trials is done."""
    folders = {run.path.parent for run in table.files}
    studies = [folder / name for folder in folders for name in STUDIES]
    if not table.keys or not any(study.is_file() for study in studies):
        return None
    runs = table.runs.sort_index()
    is_pruned = runs["status"] == "pruned"
    loss = runs[table.metric].where(~is_pruned, runs[BEST]).astype("float64")
    about = {"number": range(1, len(runs) + 1), "loss": loss, "is_pruned": is_pruned}
    has_loss = np.isfinite(loss) & ~runs["diverged"]
    trials = Trials(table, pd.DataFrame(about)[has_loss], runs.loc[has_loss, table.keys])
    return None if trials.runs["is_pruned"].all() else trials


def importances(trials: Trials) -> pd.Series:
    """By key, the largest first: how much it takes to be among the best tenth (PED-ANOVA, Watanabe
    et al. 2023, arXiv 2304.10255). They add up to 1. Empty for fewer than FEWEST trials."""
    if len(trials.runs) < FEWEST:
        return pd.Series(dtype="float64")
    import optuna
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    level = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = optuna.create_study()
            study.add_trials(_as_optuna_has_them(trials))
            of_keys = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        finally:
            optuna.logging.set_verbosity(level)
    shares = pd.Series(of_keys, dtype="float64")
    return shares[np.isfinite(shares)].sort_values(ascending=False, kind="stable")


def _as_optuna_has_them(trials: Trials) -> list[FrozenTrial]:
    """Numbers between the lowest and the highest that was tried, all else as categories."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.trial import create_trial

    columns: dict[str, pd.Series] = {}
    distributions: dict[str, BaseDistribution] = {}
    for key, values in trials.values.items():
        name = str(key)
        if all(map(is_number, values)) and not values.map(is_missing).any():
            columns[name] = numbers = values.astype("float64")
            on_log = wants_log(list(numbers))
            distributions[name] = FloatDistribution(numbers.min(), numbers.max(), log=on_log)
        else:
            columns[name] = values.map(lambda value, name=name: label(name, value, None))
            distributions[name] = CategoricalDistribution(sorted(set(columns[name])))
    params = pd.DataFrame(columns).to_dict("records")
    return [
        create_trial(params=of_trial, distributions=distributions, value=float(loss))
        for of_trial, loss in zip(params, trials.runs["loss"], strict=True)
    ]
