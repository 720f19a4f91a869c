"""The curves of runs, from their metrics.csv: averaged over seeds, and given to TensorBoard."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lmlab.files import open_to_read, path_name
from lmlab.runs.directory import EVENTS, METRICS
from lmlab.sweeps.table.settings import Table, folded
from lmlab.sweeps.table.values import heading, is_missing, label, short_keys

AVERAGED = ("train/loss", "train/loss_eval", "val/bpc", "val/loss", "val/loss_full")
BANDS = ("val/loss", "val/bpc")  # charts of their own under Custom Scalars
BAND = "± sd/"  # the tags of a band's edges; sorted behind all others
MOST_POINTS = 100  # of a mean curve: train/loss may have thousands, and nobody sees them


def read_curves(runs: pd.DataFrame, tags: Sequence[str]) -> pd.DataFrame:
    """The curves of some rows of `runs_frame`: columns setting, run, step, and one per tag.

    `run` is the row's index; NaN stands where nothing finite was logged. A file that is missing or
    damaged gives what can be read of it. A run that diverged has a row in any case, without values
    if it logged none, so that no mean over the others is taken for one over all.
    """
    columns = ["setting", "run", "step", *tags]
    frames = [pd.DataFrame(columns=columns)]
    for run, setting, directory, diverged in runs[
        ["setting", "directory", "diverged"]
    ].itertuples():
        if diverged:
            frames.append(pd.DataFrame({"setting": [setting], "run": [run], "step": [0]}))
        path = Path(directory, METRICS)
        try:
            with open_to_read(path, within=path.parent) as file:
                content = file.read()
            logged = pd.read_csv(
                io.BytesIO(content),
                usecols=lambda name: name in ("step", *tags),
                index_col=False,
                dtype="str",  # a damaged file may hold anything
                on_bad_lines="skip",
                encoding_errors="replace",
            )
        except (OSError, ValueError):  # none yet, or no table at all
            continue
        frames.append(logged.assign(setting=setting, run=run))
    curves = pd.concat(frames)[columns].apply(pd.to_numeric, errors="coerce").astype("float64")
    curves = curves.where(np.isfinite)[curves["step"].between(0, 2**53)]
    curves = curves.astype({"setting": "int64", "run": "int64", "step": "int64"})
    # Of a step that was logged twice, the later value.
    return curves.groupby(["setting", "run", "step"], as_index=False).last()


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


def spent_at(table: Table, curves: pd.DataFrame, quantity: str) -> pd.Series:
    """The `tokens` or `flops` that training took to each point of some curves of a table's runs.

    Each step of a run took as much; those of the run that it began from are counted as they were.
    """
    runs = table.runs.loc[curves["run"].unique()]
    before = pd.DataFrame(
        [table.files[i].before for i in runs.index], runs.index, ["step", quantity], "float64"
    )
    n_steps = runs["step"].astype("float64") - before["step"]
    a_step = (runs[quantity].astype("float64") - before[quantity]) / n_steps
    n = curves["step"] - curves["run"].map(before["step"])
    return curves["run"].map(before[quantity]) + n * curves["run"].map(a_step)


def has_curves(run_dir: str) -> bool:
    return Path(run_dir, METRICS).is_file()


def seed_means(table: Table) -> dict[str, bytes]:
    """For TensorBoard: the mean over seeds of each setting that has two or more, as a run of its
    own, by `<name of the setting>/<event file>`.

    A run's tags hold the means; under Custom Scalars a chart shows them with a band of one standard
    deviation. The mean over a seed that diverged ends where its curve does. The files' names tell
    the time: an open board reads on in the newest.
    """
    several = of_several_seeds(table)
    runs = folded(table.runs)
    means = _means(read_curves(runs[runs["setting"].isin(several)], AVERAGED))
    events = {}
    for setting, name in names_of_settings(table, several).items():
        of_setting = means[means.index.get_level_values("setting") == setting]
        events[f"{name}/{EVENTS}{time.time_ns()}"] = _events(of_setting.droplevel("setting"))
    return events


def of_several_seeds(table: Table) -> pd.Index:
    """The settings of which two seeds or more are done, or diverged."""
    ended = table.runs["counted"] | table.runs["diverged"]
    n = ended.groupby(table.runs["setting"]).sum()
    return table.settings.index[n[table.settings.index] > 1]


def _means(curves: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and the edges of the bands: index (setting, step), a column per tag."""
    columns = {}
    for tag in AVERAGED:
        by_step = shared_steps(curves, tag).groupby(["setting", "step"])[tag]
        columns[tag] = mean = by_step.mean()
        if tag in BANDS:
            columns[f"{BAND}{tag} above"] = mean + by_step.std()
            columns[f"{BAND}{tag} below"] = mean - by_step.std()
    return pd.DataFrame(columns)


def names_of_settings(table: Table, settings: Iterable[int]) -> dict[int, str]:
    """A folder's name for each setting, all different: `model=head,lr=0.1`."""
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


def _events(means: pd.DataFrame) -> bytes:
    """An event file, without TensorFlow or torch: half a second, not three."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary

    from lmlab.display.event_files import first_event, record

    now = time.time()
    # A board that has shown an earlier version of this run forgets it here.
    start = Event(wall_time=now, step=0, session_log=SessionLog(status=SessionLog.START))
    events = [first_event(), start, Event(wall_time=now, step=0, summary=_layout())]
    for step, values in means.to_dict("index").items():
        logged = {tag: value for tag, value in values.items() if not math.isnan(value)}
        at_step = [Summary.Value(tag=tag, simple_value=value) for tag, value in logged.items()]
        events.append(Event(wall_time=now, step=step, summary=Summary(value=at_step)))
    return b"".join(map(record, events))


def _layout():  # type: ignore[no-untyped-def]
    """Custom Scalars: the mean of each of BANDS, with its band."""
    from google.protobuf.json_format import ParseDict
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    def chart(tag: str) -> dict[str, object]:
        series = {"value": tag, "lower": f"{BAND}{tag} below", "upper": f"{BAND}{tag} above"}
        return {"title": tag, "margin": {"series": [series]}}

    category = {"title": "mean over seeds ± standard deviation", "chart": list(map(chart, BANDS))}
    layout = ParseDict({"category": [category]}, layout_pb2.Layout()).SerializeToString()
    tensor = TensorProto(dtype="DT_STRING", string_val=[layout], tensor_shape={})
    of_layout = metadata.create_summary_metadata()
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=of_layout)
    return Summary(value=[value])
