"""In which config keys runs differ."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lmlab.sweeps.table.reading import RECORDED_KEYS, SEED, RunFiles
from lmlab.sweeps.table.values import canonical


def key_values(runs: Sequence[RunFiles]) -> pd.DataFrame:
    """A row per run, a column per key: its value in the sweep, else in the config, else the option
    chosen for a group that another run's sweep varied. NaN: the run has no such key."""
    swept = {key for run in runs for key in run.swept}
    rows = []
    for run in runs:
        chosen = {group: option for group, option in run.choices.items() if group in swept}
        rows.append({**chosen, **(run.config or {}), **run.swept, **run.recorded_keys})
    return pd.DataFrame(rows, dtype=object)


class Folding:
    """Numbers runs by the values of some keys: equal values, equal number."""

    def __init__(self, runs: Sequence[RunFiles], values: pd.DataFrame):
        self.texts = values.map(canonical)
        # A run of which nothing is known is like no other.
        unknown = [run.config is None and not run.swept for run in runs]
        self.alone = pd.Series([str(run.path) for run in runs]).where(unknown, "")

    def setting(self, keys: Sequence[str]) -> pd.Series:
        by = [self.alone, *(self.texts[key] for key in keys)]
        return self.texts.groupby(by, sort=False).ngroup()


def differing_keys(runs: Sequence[RunFiles], values: pd.DataFrame, folding: Folding) -> list[str]:
    """The keys to group by, so that the runs of a group differ in nothing but the seed.

    First the keys of the sweep that vary; then those in which the stored configs of a group still
    differ (two sweeps in one folder, runs begun by hand); then RECORDED_KEYS.
    """
    texts, setting = folding.texts, folding.setting
    swept = dict.fromkeys(key for run in runs for key in run.swept)
    keys = [key for key in swept if key not in (SEED, *RECORDED_KEYS) and texts[key].nunique() > 1]

    readable = [run.config is not None for run in runs]
    within = texts[readable].groupby(setting(keys)[readable]).nunique().gt(1).any()
    differing = [key for key in texts if within[key] and key not in (SEED, *RECORDED_KEYS)]
    for key in sorted(differing, key=lambda key: not key.endswith("_target_")):
        # Where a class differs so do its arguments, which then need no columns of their own.
        is_argument = any(
            key.startswith(other.removesuffix("_target_"))
            for other in keys
            if other.endswith("_target_")
        )
        if not is_argument or setting([*keys, key]).nunique() > setting(keys).nunique():
            keys.append(key)

    # A run that failed early has none of these, and that alone is no difference.
    known = texts[list(RECORDED_KEYS)].where(values[list(RECORDED_KEYS)].notna())
    within = known.groupby(setting(keys)).nunique().gt(1).any()
    return keys + [key for key in RECORDED_KEYS if within[key]]
