"""The curves of runs, from their metrics.csv, and their means over seeds."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lmlab.files import open_to_read, path_name
from lmlab.runs.directory import METRICS
from lmlab.sweeps.table.settings import Table, seeds
from lmlab.sweeps.table.values import heading, is_missing, label, short_keys

AVERAGED = ("train/loss", "train/loss_eval", "val/bpc", "val/loss")
BANDS = ("val/loss", "val/bpc")  # charts of their own under Custom Scalars
BAND = "± sd/"  # the tags of a band's edges; sorted behind all others
AT_ONCE = 500  # files; more would be held in memory
MAY_GO_ON = '"\r\0\ufeff'  # what may make more than a line, or less, of a line
Curves = dict[str, list[tuple[int, float]]]  # by tag: step and value
MOST_POINTS = 100  # of a mean curve: train/loss may have thousands, and nobody sees them


def read_curves(runs: pd.DataFrame, tags: Sequence[str]) -> pd.DataFrame:
    """The curves of some rows of `runs_frame`: columns setting, run, step, and one per tag.

    `run` is the row's index; NaN stands where nothing finite was logged. A file that is missing or
    damaged gives what can be read of it. A run that diverged has a row in any case, without values
    if it logged none, so that no mean over the others is taken for one over all.
    """
    columns = ["run", "step", *tags]
    lost = runs.index[runs["diverged"].astype(bool)]
    frames = [pd.DataFrame(columns=columns), pd.DataFrame({"run": lost, "step": 0})]
    for i in range(0, len(runs), AT_ONCE):
        frames += _logged(runs["directory"].iloc[i : i + AT_ONCE], tags)
    curves = pd.concat(frames)[columns].astype("float64")
    curves = curves.where(np.isfinite)[curves["step"].between(0, 2**53)]
    curves = curves.astype({"run": "int64", "step": "int64"})
    curves.insert(0, "setting", curves["run"].map(runs["setting"]).astype("int64"))
    # Of a step that was logged twice, the later value.
    return curves.groupby(["setting", "run", "step"], as_index=False).last()


def _logged(directories: pd.Series, tags: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The files of some runs, by their index: columns run, step and what there is of `tags`.

    Those with the same columns are read at once, as one table: for each by itself pandas would take
    longer than it does for all its lines.
    """
    alike: dict[str, list[str]] = {}  # lines, each behind the number of its run
    for run, directory in directories.items():
        path = Path(directory, METRICS)
        try:
            with open_to_read(path, within=path.parent) as file:
                text = file.read().decode("utf-8", errors="replace")
        except (OSError, ValueError):  # none yet, or no file
            continue
        header, _, body = text.partition("\n")
        if header and not any(mark in text for mark in MAY_GO_ON):
            lines = alike.setdefault(header, [])
            lines += [f"{run},{line}" for line in body.split("\n") if line]
        else:
            yield _parsed(text, tags).assign(run=run)
    for header, lines in alike.items():
        yield _parsed("\n".join([f"run,{header}", *lines]), ("run", *tags))


def _parsed(text: str, columns: Sequence[str]) -> pd.DataFrame:
    """CSV as numbers, NaN for what is none; what is damaged may hold anything."""
    try:
        table = pd.read_csv(
            io.StringIO(text),
            usecols=lambda name: name in ("step", *columns),
            index_col=False,
            dtype="str",
            on_bad_lines="skip",
        )
    except ValueError:  # no table at all
        return pd.DataFrame()
    return table.apply(pd.to_numeric, errors="coerce")


def of_all_seeds(curves: pd.DataFrame, tag: str) -> pd.DataFrame:
    """One curve, at the steps where all runs of a setting have a value: rows of `curves`.

    A mean over fewer runs would leave out those that diverged, and look better than the setting is.
    """
    n_runs = curves.groupby("setting")["run"].nunique()
    values = curves[["setting", "run", "step", tag]].dropna()
    n_values = values.groupby(["setting", "step"])["run"].transform("size")
    return values[n_values == values["setting"].map(n_runs)]


def shared_steps(curves: pd.DataFrame, tag: str) -> pd.DataFrame:
    """The same; of more than MOST_POINTS steps it takes evenly fewer, the last always."""
    values = of_all_seeds(curves, tag)
    steps = values.groupby("setting")["step"]
    from_last = steps.rank("dense", ascending=False) - 1
    return values[from_last % np.ceil(steps.transform("nunique") / MOST_POINTS) == 0]


def has_curves(run_dir: str) -> bool:
    return Path(run_dir, METRICS).is_file()


def averaged(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that the mean curves are of: those that are done or diverged and, where these are
    fewer than two of a setting, those at work, too; none of a setting with fewer than two at all.

    The mean over a seed that diverged ends where its curve does.
    """
    ended = runs["counted"] | runs["diverged"]
    few = ended.groupby(runs["setting"]).transform("sum") < 2
    chosen = runs[ended | (few & (runs["status"] == "running"))].assign(ended=ended)
    chosen = chosen.sort_values("ended", kind="stable", ascending=False)
    repeated = pd.DataFrame({"setting": chosen["setting"], "seed": seeds(chosen)}).duplicated()
    chosen = chosen[~repeated].sort_index()
    return chosen[chosen.groupby("setting")["setting"].transform("size") > 1]


def mean_curves(runs: pd.DataFrame) -> dict[int, Curves]:
    """By setting: of each of AVERAGED the mean over `runs`, at the steps that all of them have;
    of BANDS also one standard deviation above and below it."""
    if not len(runs):
        return {}
    curves: dict[int, Curves] = {int(setting): {} for setting in runs["setting"].unique()}
    logged = read_curves(runs, AVERAGED)
    for tag in AVERAGED:
        by_step = shared_steps(logged, tag).groupby(["setting", "step"])[tag]
        mean, sd = by_step.mean(), by_step.std()
        drawn = {tag: mean}
        if tag in BANDS:
            drawn |= {f"{BAND}{tag} above": mean + sd, f"{BAND}{tag} below": mean - sd}
        for name, values in drawn.items():
            for (setting, step), value in values.items():
                curves[setting].setdefault(name, []).append((int(step), float(value)))
    return curves


def names_of_settings(table: Table, settings: Iterable[int]) -> dict[int, str]:
    """A name for each setting, all different: `model=head,lr=0.1`."""
    names: dict[int, str] = {}
    keys = sorted(table.keys)  # as in the names of runs
    short = short_keys(map(heading, keys))
    for setting in settings:
        values = table.settings.loc[setting, keys].items()
        there = [
            f"{short[heading(k)]}={label(k, value)}" for k, value in values if not is_missing(value)
        ]
        stem = name = path_name(",".join(there)) or "mean"
        n = 1
        while name in names.values():
            n += 1
            name = f"{stem}-{n}"
        names[setting] = name
    return names
