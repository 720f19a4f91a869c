"""What training had taken at each point of some curves: seconds, tokens, operations."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import pandas as pd
from google.protobuf.message import DecodeError

from lmlab.files import check_regular
from lmlab.sweeps.table.settings import Table

SECONDS = "train/seconds"  # in the event files, at each evaluation


def spent_at(table: Table, curves: pd.DataFrame, quantity: str) -> pd.Series:
    """The `seconds`, `tokens` or `flops` that training took to each point of some curves of a
    table's runs; NaN where nobody knows.

    It stands in their metrics.csv, a column of `curves`. Where an earlier lmlab wrote no such
    column, the event files have the seconds of evaluations, and the record what all steps took.
    """
    logged = curves[quantity]
    older = curves[logged.isna()]
    if not len(older):
        return logged
    fill = _seconds(table, older) if quantity == "seconds" else _counted(table, older, quantity)
    return logged.fillna(fill)


def _counted(table: Table, curves: pd.DataFrame, quantity: str) -> pd.Series:
    """Each step of a run took as much; those of the run that it began from are counted as they
    were."""
    runs = table.runs.loc[curves["run"].unique()]
    before = pd.DataFrame(
        [table.files[i].before for i in runs.index], runs.index, ["step", quantity], "float64"
    )
    n_steps = runs["step"].astype("float64") - before["step"]
    a_step = (runs[quantity].astype("float64") - before[quantity]) / n_steps
    n = curves["step"] - curves["run"].map(before["step"])
    return curves["run"].map(before[quantity]) + n * curves["run"].map(a_step)


def _seconds(table: Table, curves: pd.DataFrame) -> pd.Series:
    times = {run: read_seconds(table.runs.at[run, "directory"]) for run in curves["run"].unique()}
    pairs = curves[["run", "step"]].itertuples(index=False)
    seconds = [times[run].get(step, math.nan) for run, step in pairs]
    return pd.Series(seconds, curves.index, "float64")


def read_seconds(directory: str) -> dict[int, float]:
    """By step of each evaluation: seconds of training, from a run's event files.

    What cannot be read is left out.
    """
    files = sorted(Path(directory).glob("*tfevents*"))
    stamps = [(path.stat().st_mtime_ns, path.stat().st_size) for path in files if path.is_file()]
    return _seconds_in(directory, tuple(files), tuple(stamps))


@lru_cache(4096)
def _seconds_in(directory: str, files: tuple[Path, ...], _: object) -> dict[int, float]:
    """Kept as long as the files are as they were. Only what holds the tag is looked into: the other
    events, pictures and histograms among them, take fifty times as long."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    seconds = {}
    try:
        for path in files:
            check_regular(path, within=Path(directory))
            for content in RawEventFileLoader(str(path)).Load():
                event = Event.FromString(content) if SECONDS.encode() in content else Event()
                for value in event.summary.value:
                    if value.tag == SECONDS:  # of one logged twice, the later
                        seconds[event.step] = value.simple_value
    except (OSError, ValueError, DecodeError):
        return {}
    return {step: value for step, value in seconds.items() if math.isfinite(value)}
