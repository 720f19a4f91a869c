"""The curves of runs, from their metrics.csv: averaged over seeds, and given to TensorBoard."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lmlab.errors import LabError
from lmlab.files import check_regular
from lmlab.runs import path_name
from lmlab.sweeps.table import Table
from lmlab.sweeps.values import heading, is_missing, label

METRICS_CSV = "metrics.csv"
SEED_MEAN = "seed-mean"
AVERAGED = ("train/loss", "train/loss_eval", "val/bpc", "val/loss", "val/loss_full")
BANDS = ("val/loss", "val/bpc")  # charts of their own under Custom Scalars
BAND = "± sd/"  # the tags of a band's edges; sorted behind all others
MOST_POINTS = 100  # of a mean curve: train/loss may have thousands, and nobody sees them


def read_curves(runs: pd.DataFrame, tags: Sequence[str]) -> pd.DataFrame:
    """The curves of some rows of `runs_frame`: index (setting, run, step), a column per tag.

    NaN stands where nothing finite was logged. A file that is missing or damaged gives what can be
    read of it.
    """
    columns = ["step", *tags]
    frames = {(-1, -1): pd.DataFrame(columns=columns)}  # so that there is one
    for run, setting, directory in runs[["setting", "directory"]].itertuples():
        path = Path(directory, METRICS_CSV)
        try:
            check_regular(path)
            frames[setting, run] = pd.read_csv(
                path,
                usecols=lambda name: name in columns,
                index_col=False,
                dtype="str",  # until all are together: a damaged file may hold anything
                on_bad_lines="skip",
                encoding_errors="replace",
            )
        except (OSError, ValueError):  # none yet, or no table at all
            continue
    found = pd.concat(frames, names=["setting", "run"]).reindex(columns=columns)
    found = found.apply(pd.to_numeric, errors="coerce").astype("float64").where(np.isfinite)
    found = found[found["step"].between(0, 2**53)].astype({"step": "int64"})
    return found.groupby(["setting", "run", "step"]).last()  # of a step logged twice, the later


def shared_steps(curves: pd.DataFrame, tag: str) -> pd.Series:
    """The values of a tag at the steps that all runs of a setting have: index as of `curves`.

    Of more than MOST_POINTS steps it takes evenly fewer, the last always. A seed that diverged ends
    the curve of its setting: a mean over the others would look better than the setting is.
    """
    values = curves[tag].dropna()
    n_values = values.groupby(["setting", "step"]).size()
    runs = curves.index.droplevel("step").unique()
    n_runs = pd.Series(1, runs).groupby("setting").sum()
    steps = n_values[n_values == n_runs.reindex(n_values.index.get_level_values("setting")).values]
    from_last = steps.groupby("setting").cumcount(ascending=False)
    every = np.ceil(steps.groupby("setting").transform("size") / MOST_POINTS)
    chosen = steps.index[from_last % every == 0]
    return values[values.index.droplevel("run").isin(chosen)]


def has_curves(run_dir: str) -> bool:
    return Path(run_dir, METRICS_CSV).is_file()


def write_seed_means(table: Table, folder: Path) -> Path | None:
    """Give TensorBoard the mean over seeds of each setting that has two or more, as a run.

    A run's tags hold the means; under Custom Scalars a chart shows them with a band of one standard
    deviation. What an earlier call wrote is replaced, so no curve is ever appended to.

    Raises:
        LabError: if it cannot be written.
    """
    target = folder / SEED_MEAN
    counted = table.runs[table.runs["counted"]]
    counted = counted[counted["setting"].map(table.settings["n"]) > 1]
    settings = counted["setting"].unique()
    names = _names(setting_name(table, setting) for setting in settings)
    means = _means(read_curves(counted, AVERAGED))
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{SEED_MEAN}.") as temporary:
            for name, setting in zip(names, settings, strict=True):
                of_setting = means[means.index.get_level_values("setting") == setting]
                _write(of_setting.droplevel("setting"), Path(temporary, SEED_MEAN, name))
            if target.exists():
                target.rename(Path(temporary, "before"))
            if names:
                Path(temporary, SEED_MEAN).rename(target)
    except OSError as error:
        raise LabError(f"cannot write {target}: {error.strerror or error}") from error
    return target if names else None


def _means(curves: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and the edges of the bands: index (setting, step), a column per tag."""
    columns = {}
    for tag in AVERAGED:
        by_step = shared_steps(curves, tag).groupby(["setting", "step"])
        columns[tag] = mean = by_step.mean()
        if tag in BANDS:
            columns[f"{BAND}{tag} above"] = mean + by_step.std()
            columns[f"{BAND}{tag} below"] = mean - by_step.std()
    return pd.DataFrame(columns)


def setting_name(table: Table, setting: int) -> str:
    """A setting by its values: `model=head,optimizer.lr=0.1`, without the keys it does not have."""
    values = table.settings.loc[setting, table.keys]
    there = {key: value for key, value in values.items() if not is_missing(value)}
    return ",".join(f"{heading(key)}={label(key, value)}" for key, value in there.items())


def _names(settings: Iterable[str]) -> list[str]:
    """A folder's name for each setting, all different and safe for any file system."""
    names: list[str] = []
    for setting in settings:
        stem = name = path_name(setting) or "mean"
        n = 1
        while name in names:
            n += 1
            name = f"{stem}-{n}"
        names.append(name)
    return names


def _write(means: pd.DataFrame, folder: Path) -> None:
    """One run of event files, without TensorFlow or torch: half a second, not three."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder.mkdir(parents=True)
    writer = EventFileWriter(str(folder))
    now = time.time()
    # A board that has shown an earlier version of this run forgets it here.
    writer.add_event(Event(wall_time=now, step=0, session_log=SessionLog(status=SessionLog.START)))
    writer.add_event(Event(wall_time=now, step=0, summary=_layout()))
    for step, values in means.to_dict("index").items():
        logged = {tag: value for tag, value in values.items() if not math.isnan(value)}
        at_step = [Summary.Value(tag=tag, simple_value=value) for tag, value in logged.items()]
        writer.add_event(Event(wall_time=now, step=step, summary=Summary(value=at_step)))
    writer.close()


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
