"""Whether settings differ, and by how much: each is compared with a baseline, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lmlab.errors import LabError
from lmlab.sweeps.compare.paired import LEVEL, Paired, holm, paired, pairs_needed
from lmlab.sweeps.table.settings import METRICS, Table
from lmlab.sweeps.table.values import canonical, ceiling, heading, is_missing, is_number, label

FIGURES = ["value", "value sd", "difference", "low", "high", "p", "p holm", "r"]


@dataclass(frozen=True)
class Differences:
    """One figure of every setting, and how it differs from that of the baseline.

    `settings` has a row per setting, indexed as `Table.settings`, the lowest value first:

    - value, value sd: mean and deviation (n - 1) over its seeds; NaN if a seed has no value
    - pairs: the seeds that it shares with the baseline
    - difference: the mean over these of its value minus that of the baseline
    - low, high: the 95 % interval of the difference, of this row alone
    - p, p holm: of a two-sided paired t-test, as it is and corrected for all rows
    - r: the correlation of the paired runs
    - needed: seeds that tell a difference of this size, or of `least`, with 80 % power
    - why: why there is no difference, or no test of it

    `by_seed` has a row per seed and a column per setting: its difference from the baseline.
    """

    table: Table
    quantity: str  # what is compared, in words
    unit: str
    baseline: int | None  # a setting; None if none has a value
    is_named: bool  # the baseline was named, and not picked as the best
    least: float | None
    settings: pd.DataFrame
    by_seed: pd.DataFrame
    remarks: list[str]  # on how the values came about

    @property
    def tested(self) -> pd.Series:
        """The settings with two pairs or more."""
        return self.settings["p"].notna()

    @property
    def told(self) -> pd.Series:
        """The settings that differ from the baseline beyond the noise of seeds."""
        return self.settings["p holm"] < LEVEL

    @property
    def off_scale(self) -> pd.Series:
        """The settings with a loss so high that its spread says nothing of noise: they diverged."""
        values = self.settings["value"]
        is_loss = self.unit.startswith(("nats", "bits"))
        return values > (ceiling(values) if is_loss else math.inf)

    @property
    def compared(self) -> pd.DataFrame:
        """The rows without that of the baseline."""
        return self.settings.drop(index=[] if self.baseline is None else [self.baseline])


class Measured(NamedTuple):
    """A figure of each run: what settings are compared by."""

    values: pd.Series  # with the index of `Table.runs`
    quantity: str  # in words
    unit: str
    lacking: str = "has no value"  # what befell a run without one, if it did not diverge
    remarks: Sequence[str] = ()  # on how the values came about


def final(table: Table) -> Measured:
    """The metric of the table."""
    values = table.runs[table.metric].mask(table.runs["diverged"])
    return Measured(values, table.metric, METRICS[table.metric].unit)


def compare(
    table: Table,
    settings: Sequence[int] | None = None,
    baseline: int | None = None,
    least: float | None = None,
    measured: Measured | None = None,
) -> Differences:
    """Compare settings (default: all) by what was `measured` (default: the metric of the table).

    `baseline` is the setting that the others are compared with; without one it is the best of them.
    Only runs that are counted take part, and those that diverged. A setting with a run that has no
    finite value is not compared: by its other runs it would look better than it is.
    """
    values, quantity, unit, lacking, remarks = measured or final(table)
    chosen = list(table.settings.index) if settings is None else list(settings)
    if baseline is not None and baseline not in chosen:
        chosen.append(baseline)
    ended = table.runs["counted"] | table.runs["diverged"]
    runs = table.runs[ended & table.runs["seed"].notna()]
    runs = runs[runs["setting"].isin(chosen)]
    frame = pd.DataFrame(
        {
            "setting": runs["setting"],
            "seed": runs["seed"].map(canonical),
            "value": values.reindex(runs.index).astype("float64"),
            "diverged": runs["diverged"],
        }
    )
    frame["value"] = frame["value"].where(np.isfinite, math.inf)
    by_seed = frame.pivot(index="seed", columns="setting", values="value")
    by_seed = by_seed.reindex(columns=chosen)
    lost = frame[np.isinf(frame["value"])].groupby("setting")["diverged"]
    words = lost.all().map({True: "diverged", False: lacking})  # by setting: what befell them

    rows = pd.DataFrame(index=pd.Index(chosen, name="setting"))
    finite = by_seed.where(np.isfinite)
    is_whole = ~np.isinf(by_seed).any()
    rows["value"] = finite.mean().where(is_whole)
    rows["value sd"] = finite.std().where(is_whole)
    rows = rows.sort_values("value", kind="stable")
    is_named = baseline is not None
    if baseline is None and rows["value"].notna().any():
        baseline = int(rows.index[0])

    of_settings = {int(i): by_seed[i].to_numpy() for i in rows.index}
    of_baseline = None if baseline is None else of_settings[baseline]
    tests = {
        i: _test(own, None if i == baseline else of_baseline, words.get(i, lacking))
        for i, own in of_settings.items()
    }
    for name in ("n", "mean", "low", "high", "p", "r"):
        column = {"n": "pairs", "mean": "difference"}.get(name, name)
        rows[column] = [getattr(test, name) for test, _ in tests.values()]
    rows["why"] = [why for _, why in tests.values()]
    tested = rows["p"].notna()
    rows["p holm"] = np.nan
    rows.loc[tested, "p holm"] = holm(rows["p"][tested].tolist())
    level = LEVEL / max(1, tested.sum())
    needed = [
        pairs_needed(test.deviation, test.mean if least is None else least, level)
        for test, _ in tests.values()
    ]
    rows["needed"] = pd.array([math.nan if n is None else n for n in needed], dtype="Int64")
    apart = finite.sub(finite[baseline], axis=0) if baseline is not None else finite * math.nan
    rows = rows[["pairs", *FIGURES, "needed", "why"]]
    return Differences(
        table, quantity, unit, baseline, is_named, least, rows, apart[rows.index], list(remarks)
    )


def _test(own: np.ndarray, other: np.ndarray | None, lacking: str) -> tuple[Paired, str]:
    """The test of a setting's values by seed against those of the baseline, and why there is none,
    or no more; `other` is None for the baseline itself, and where there is none."""
    there = ~np.isnan(own)
    if bad := int(np.isinf(own).sum()):
        return Paired(0), f"{bad} of {there.sum()} {lacking}"
    if not there.any():
        return Paired(0), "no run is done"
    if other is None or np.isinf(other).any():
        return Paired(0), ""
    shared = there & ~np.isnan(other)
    test = paired(own[shared], other[shared])
    return test, {0: "no seed in common", 1: "one seed in common"}.get(test.n, "")


def setting_named(table: Table, text: str) -> int:
    """The best setting of those that `key=value,…` describes.

    Raises:
        LabError: if there is none, or no such key.
    """
    from lmlab.config.slips import nearest

    rows = table.settings
    for part in _parts(text):
        name, is_pair, value = part.partition("=")
        key = next((key for key in table.keys if name in (key, heading(key))), None)
        if not is_pair or key is None:
            names = ", ".join(map(heading, table.keys)) or "no key, beside the seed"
            hint = nearest(name, [heading(key) for key in table.keys])
            raise LabError(f"--baseline {text}: the settings differ in {names}{hint}")
        matching = rows[[_is_written(value, key, there) for there in rows[key]]]
        if matching.empty:
            offered = ", ".join(dict.fromkeys(label(key, there) for there in rows[key]))
            raise LabError(f"--baseline {text}: no setting has {part}; {name} is one of {offered}")
        rows = matching
    return int(rows.index[0])


def _parts(text: str) -> list[str]:
    """`a=1,b=[2,3]` -> a=1 and b=[2,3]: a comma with no = behind it belongs to a value."""
    parts: list[str] = []
    for part in text.split(","):
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    return parts


def _is_written(text: str, key: str, value: Any) -> bool:
    """Whether a value may be typed like this: 1e-3 for 0.001 too."""
    if is_number(value) and not is_missing(value):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text in (label(key, value, width=None), label(key, value), str(value))
