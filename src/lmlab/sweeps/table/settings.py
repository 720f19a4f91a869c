"""The runs below a folder as pandas tables: a row for each run, a row for each setting.

A setting is what runs share that differ in nothing but the seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lmlab.errors import LabError
from lmlab.sweeps.table.keys import Folding, differing_keys, key_values
from lmlab.sweeps.table.reading import RunFiles, read
from lmlab.sweeps.table.values import canonical, is_missing

STATUSES = ("done", "running", "interrupted", "paused", "pruned", "failed", "killed")


class Metric(NamedTuple):
    """A figure to sort and draw by."""

    unit: str
    protocol: str  # which tokens, in words; {full} and {evals} are filled in from the configs


LOSS, BPC, BEST = "val/loss_full", "val/bpc_full", "best val/loss"
METRICS = {
    LOSS: Metric("nats per token", "{full}"),
    BPC: Metric("bits per character", "{full}"),
    BEST: Metric("nats per token", "lowest of a run's evaluations, {evals}"),
}
QUANTITIES = ["seconds", "step", "parameters", "tokens", "flops"]
DTYPES = {
    **dict.fromkeys([*METRICS, "seconds", "flops"], "float64"),
    **dict.fromkeys(["step", "parameters", "tokens"], "Int64"),
}
# Those of the files; in a frame stands `diverged` among them, too.
RUN_COLUMNS = ["seed", *METRICS, *QUANTITIES, "status", "error", "directory"]
SETTING_COLUMNS = ["n", *(f"{name}{sd}" for name in METRICS for sd in ("", " sd")), *QUANTITIES]
SETTING_COLUMNS += ["status", "directory"]
TAKEN = {"setting", "counted", "diverged", *RUN_COLUMNS, *SETTING_COLUMNS}


def runs_frame(folder: Path | str) -> pd.DataFrame:
    """Every run below a folder, one row each, those of the best setting first.

    The columns:

    - one per config key in which the runs differ, such as `model` or `optimizer.lr`: its value, NaN
      if a run has no such key; one that is called like a column below has ` (key)` behind it
    - seed: the seed
    - val/loss_full: nats per token, every token of val but the first predicted once; NaN until the
      run is done, and if it diverged
    - val/bpc_full: the same in bits per character
    - best val/loss: nats per token, the lowest of all evaluations so far
    - seconds: of training
    - step: optimizer steps so far
    - parameters: of the model
    - tokens: seen in training
    - flops: floating-point operations of training, counted in products of matrices; NaN where
      nobody knows
    - status: done, running, interrupted, paused, pruned, failed or killed
    - error: why it is not done, on one line
    - diverged: whether its loss became infinite or NaN; of several runs with the same seed that
      are done or diverged, only the newest is
    - directory: the run directory
    - setting: the place of its setting on the leaderboard, 1 for the best; runs that differ in
      nothing but the seed share one
    - counted: whether it is in the mean of its setting: it is done, and of several runs with the
      same seed that are done or diverged it is the newest

    So `runs[runs.counted].groupby("setting")["val/loss_full"].agg(["mean", "std", "size"])` is the
    leaderboard, but for settings with a seed that diverged: these have no mean.

    Raises:
        LabError: if there is no run, or no such folder.
    """
    return load([Path(folder)]).runs.infer_objects()


@dataclass(frozen=True)
class Table:
    """Runs and their settings, with what is needed to describe them."""

    runs: pd.DataFrame  # see runs_frame; the index counts them in the order they were started
    # Index `setting`, from 1, best first; the keys, then SETTING_COLUMNS, and how many of its seeds
    # `diverged`.
    settings: pd.DataFrame
    keys: list[str]  # the columns of keys in both
    metric: str  # sorted by it
    files: list[RunFiles]  # by the index of `runs`
    unreadable: list[str]  # what is wrong with each record that was left out

    @property
    def best(self) -> int | None:
        """The setting with the lowest loss, if any has one."""
        return 1 if np.isfinite(self.loss[1]) and not self.settings["diverged"][1] else None

    @property
    def loss(self) -> pd.Series:
        """The metric of each setting, mean over its seeds; NaN if none is done, or one diverged."""
        return self.settings[self.metric]

    @property
    def deviation(self) -> pd.Series:
        """Its standard deviation over the seeds (n - 1); NaN for one seed."""
        return self.settings[f"{self.metric} sd"]

    def varies(self, quantity: str) -> bool:
        """Whether runs differ in it; those that are done or paused, if any is."""
        done = self.runs[self.runs["status"].isin(("done", "paused"))]
        return (done if len(done) else self.runs)[quantity].nunique(dropna=False) > 1


def load(folders: Sequence[Path], metric: str | None = None) -> Table:
    """The runs below some folders as a table, sorted by a metric.

    Raises:
        LabError: if there is no run.
    """
    runs, unreadable = read(folders)
    if not runs:
        where = ", ".join(map(str, folders))
        why = f"; {unreadable[0]}" if unreadable else ": no run.json in it or below"
        raise LabError(f"{where} holds no run{why}")
    return tabulate(runs, unreadable, metric)


def tabulate(
    files: list[RunFiles], unreadable: Sequence[str] = (), metric: str | None = None
) -> Table:
    """Fold runs that differ in nothing but the seed, and sort the settings by a metric."""
    # Where pyarrow is installed pandas keeps texts in it, and it takes no name that is not UTF-8.
    with pd.option_context("mode.string_storage", "python"):
        return _tabulated(files, unreadable, metric)


def _tabulated(files: list[RunFiles], unreadable: Sequence[str], metric: str | None) -> Table:
    values = key_values(files)
    folding = Folding(files, values)
    keys = differing_keys(files, values, folding)
    columns = {key: f"{key} (key)" if key in TAKEN else key for key in keys}

    figures = pd.DataFrame([run.figures() for run in files]).astype(DTYPES)
    runs = pd.concat([values[keys].rename(columns=columns), figures], axis=1)
    runs["setting"] = folding.setting(keys)
    ended = (runs["status"] == "done") | runs["diverged"]
    newest = ended & ~_repeated(runs, ended)
    runs["diverged"] &= newest
    runs["counted"] = newest & (runs["status"] == "done")

    metric = metric or fitting_metric(files)
    settings = _settings(runs, list(columns.values()), metric)
    place = pd.Series(range(1, len(settings) + 1), settings.index)
    runs["setting"] = runs["setting"].map(place)
    settings.index = pd.RangeIndex(1, len(settings) + 1, name="setting")
    runs = runs.sort_values("setting", kind="stable")
    return Table(runs, settings, list(columns.values()), metric, files, list(unreadable))


def _repeated(runs: pd.DataFrame, ended: pd.Series) -> pd.Series:
    """The runs whose seed has a newer one that ended likewise: a repetition adds nothing."""
    repeated = pd.DataFrame({"setting": runs["setting"], "seed": seeds(runs), "ended": ended})
    return repeated.duplicated(keep="last")


def seeds(runs: pd.DataFrame) -> pd.Series:
    """The seed of each run as a text; a run of which none is known has one of its own."""
    return runs["seed"].map(canonical).where(runs["seed"].notna(), runs["directory"])


def _settings(runs: pd.DataFrame, keys: list[str], metric: str) -> pd.DataFrame:
    """Means and deviations over the seeds that are done, best setting first.

    A mean is NaN where a seed diverged: that of the others would look better than the setting is.
    Settings that diverged come after all that have a loss, and those of which no run is done last.
    """
    everything = runs.groupby("setting")
    counted = runs[runs["counted"]].groupby("setting")
    settings = runs.drop_duplicates("setting").set_index("setting")[keys]
    settings["n"] = everything["counted"].sum()
    settings["diverged"] = everything["diverged"].sum()
    for name in METRICS:
        settings[name] = counted[name].mean(skipna=False)
        settings[f"{name} sd"] = counted[name].std(skipna=False)
    # A run alone that is not done shows its best so far; so do several that have all paused.
    alone = (everything.size() == 1) & (settings["n"] == 0)
    have_paused = (runs["status"] == "paused").groupby(runs["setting"]).all()
    settings[BEST] = settings[BEST].where(~(alone | have_paused), everything[BEST].mean())
    diverged = settings["diverged"] > 0
    for name in METRICS:
        flattered = diverged & (everything.size() > 1) & np.isfinite(settings[name])
        settings.loc[flattered, [name, f"{name} sd"]] = np.nan

    typical = representatives(runs)
    numbers = typical[QUANTITIES].astype("float64")
    settings[QUANTITIES] = numbers.groupby(typical["setting"]).mean()
    settings["status"] = pd.Series({i: _status(of_setting) for i, of_setting in everything})
    best_run = typical.sort_values(metric, kind="stable").drop_duplicates("setting")
    settings["directory"] = best_run.set_index("setting")["directory"]
    order = pd.DataFrame(
        {
            "loss": settings[metric].mask(diverged & np.isfinite(settings[metric])),
            "unfinished": settings["n"] == 0,
            "best": settings[BEST].mask(diverged),
        }
    )
    return settings.loc[order.sort_values(list(order), kind="stable").index]


def representatives(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that stand for their settings: those counted, or all where none is done."""
    return runs[runs["counted"] | ~runs.groupby("setting")["counted"].transform("any")]


def folded(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that a mean over seeds is of: those counted and those that diverged, which have no
    value at its end; or all of a setting where none is either."""
    ended = runs["counted"] | runs["diverged"]
    return runs[ended | ~ended.groupby(runs["setting"]).transform("any")]


def fitting_metric(files: Iterable[RunFiles]) -> str:
    """Nats per token cannot be compared across tokenizers or texts; bits per character can. What
    predicts other tokens at the end, or none, is compared by the evaluations while training."""
    tokenizers, corpora, passes = set(), set(), set()
    for run in files:
        config = {**(run.config or {}), **run.swept}
        of_tokenizer = {key: config[key] for key in config if key.startswith("tokenizer.")}
        tokenizers.add(canonical(of_tokenizer))
        corpora.add(run.recorded_keys["corpus_sha256"])
        passes.add(canonical(config.get("eval.full", True)))
    known = [corpus for corpus in corpora if not is_missing(corpus)]
    if len(known) > 1 or len(tokenizers) > 1:
        return BPC
    return BEST if len(passes) > 1 or canonical(False) in passes else LOSS


def _status(runs: pd.DataFrame) -> str:
    """How the runs of a setting stand: `5 of 6 diverged, 1 running` where a seed did."""
    if len(runs) == 1 or not runs["diverged"].any():
        return status_of(runs["status"])
    others = runs["status"][~runs["diverged"] & (runs["status"] != "done")]
    more = f", {count_by_status(others)}" if len(others) else ""
    return f"{runs['diverged'].sum()} of {len(folded(runs))} diverged{more}"


def status_of(statuses: Iterable[str]) -> str:
    """`done`; for several runs `3 done`, `2 done, 1 failed`."""
    statuses = list(statuses)
    return statuses[0] if len(statuses) == 1 else count_by_status(statuses)


def count_by_status(statuses: Iterable[str]) -> str:
    """`9 done, 1 failed`."""
    counts = Counter(statuses)
    known = [status for status in STATUSES if status in counts]
    others = sorted(set(counts) - set(STATUSES))
    return ", ".join(f"{counts[status]} {status}" for status in [*known, *others])
