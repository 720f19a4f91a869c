"""The curves of runs, from their metrics.csv: averaged over seeds, and given to TensorBoard."""

from __future__ import annotations

import csv
import math
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmlab.errors import LabError
from lmlab.files import check_regular
from lmlab.sweeps.leaderboard import name
from lmlab.sweeps.table import Group, Row, Table

METRICS_CSV = "metrics.csv"
SEED_MEAN = "seed-mean"
AVERAGED = ("train/loss", "train/loss_eval", "val/bpc", "val/loss", "val/loss_full")
BANDS = ("val/loss", "val/bpc")  # charts of their own under Custom Scalars
BAND = "± sd/"  # the tags of a band's edges; sorted behind all others
MOST_POINTS = 100  # of a mean curve: train/loss may have thousands, and nobody sees them

Curve = dict[int, float]  # by step


@dataclass(frozen=True)
class Band:
    """A curve over seeds, at the steps that all of them have."""

    steps: list[int]
    mean: list[float]
    deviation: list[float]  # n - 1; 0 for one seed
    n: int


def curves(row: Row, names: Sequence[str]) -> dict[str, Curve]:
    """Some of a run's curves; one that is missing or cannot be read is empty."""
    found: dict[str, Curve] = {name: {} for name in names}
    path = row.path / METRICS_CSV
    try:
        check_regular(path)
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            head = next(lines, [])
            places = [(found[name], head.index(name)) for name in names if name in head]
            at = head.index("step")
            for line in lines:
                if not 0 <= int(line[at]) < 2**63:
                    raise ValueError("no step")
                for curve, place in places:
                    if line[place]:
                        curve[int(line[at])] = float(line[place])
    except (OSError, ValueError, IndexError, csv.Error):
        pass  # a run that has none yet, or a file that somebody cut: what was read is shown
    return found


def band(several: Sequence[Curve]) -> Band | None:
    """Mean and standard deviation, at the steps that all curves have (evenly fewer if many)."""
    steps = sorted(set.intersection(*map(set, several))) if several else []
    if not steps:
        return None
    steps = steps[:: -math.ceil(len(steps) / MOST_POINTS)][::-1]  # the last one stays
    values = np.array([[curve[step] for step in steps] for curve in several])  # (n, steps)
    with np.errstate(invalid="ignore"):  # a loss may be NaN or infinite, and so may its mean
        mean = values.mean(axis=0)
        deviation = values.std(axis=0, ddof=1) if len(several) > 1 else np.zeros(len(steps))
    return Band(steps, mean.tolist(), deviation.tolist(), len(several))


def drawn(group: Group) -> list[Row]:
    """The runs whose curves stand for a group: those that are done, or else all."""
    return group.counted or group.rows


def write_seed_means(table: Table, folder: Path) -> Path | None:
    """Give TensorBoard the mean over seeds of each setting that has two or more, as a run.

    A run's tags hold the means; under Custom Scalars a chart shows them with a band of one standard
    deviation. What an earlier call wrote is replaced, so no curve is ever appended to.

    Raises:
        LabError: if it cannot be written.
    """
    target = folder / SEED_MEAN
    folded = [group for group in table.groups if len(group.counted) > 1]
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{SEED_MEAN}.") as temporary:
            for group, called in zip(folded, _names(folded), strict=True):
                _write(group, Path(temporary, SEED_MEAN, called))
            if target.exists():
                target.rename(Path(temporary, "before"))
            if folded:
                Path(temporary, SEED_MEAN).rename(target)
    except OSError as error:
        raise LabError(f"cannot write {target}: {error.strerror or error}") from error
    return target if folded else None


def _names(groups: Iterable[Group]) -> list[str]:
    """A folder's name for each group, all different and safe for any file system."""
    names: list[str] = []
    for group in groups:
        safe = re.sub(r"[^\w.,=+-]+", "-", name(group).replace(", ", ",")).strip("-.")[:100]
        stem = candidate = safe or "mean"
        n = 1
        while candidate in names:
            n += 1
            candidate = f"{stem}-{n}"
        names.append(candidate)
    return names


def _write(group: Group, folder: Path) -> None:
    """One run of event files, without TensorFlow or torch: half a second, not three."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    of_runs = [curves(row, AVERAGED) for row in group.counted]
    values: dict[int, dict[str, float]] = {}
    for tag in AVERAGED:
        averaged = band([of_run[tag] for of_run in of_runs])
        if averaged is None:
            continue
        for step, mean, deviation in zip(
            averaged.steps, averaged.mean, averaged.deviation, strict=True
        ):
            at = values.setdefault(step, {})
            at[tag] = mean
            if tag in BANDS:
                at[f"{BAND}{tag} above"], at[f"{BAND}{tag} below"] = (
                    mean + deviation,
                    mean - deviation,
                )
    folder.mkdir(parents=True)
    writer = EventFileWriter(str(folder))
    now = time.time()
    # A board that has shown an earlier version of this run forgets it here.
    writer.add_event(Event(wall_time=now, step=0, session_log=SessionLog(status=SessionLog.START)))
    writer.add_event(Event(wall_time=now, step=0, summary=_layout()))
    for step, at in sorted(values.items()):
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in at.items()]
        writer.add_event(Event(wall_time=now, step=step, summary=Summary(value=scalars)))
    writer.close()


def _layout():  # type: ignore[no-untyped-def]
    """Custom Scalars: the mean of each of BANDS, with its band."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    charts = [
        layout_pb2.Chart(
            title=tag,
            margin=layout_pb2.MarginChartContent(
                series=[
                    layout_pb2.MarginChartContent.Series(
                        value=tag, lower=f"{BAND}{tag} below", upper=f"{BAND}{tag} above"
                    )
                ]
            ),
        )
        for tag in BANDS
    ]
    category = layout_pb2.Category(title="mean over seeds ± standard deviation", chart=charts)
    layout = layout_pb2.Layout(category=[category])
    tensor = TensorProto(
        dtype="DT_STRING",
        string_val=[layout.SerializeToString()],
        tensor_shape=TensorShapeProto(),
    )
    value = Summary.Value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        tensor=tensor,
        metadata=metadata.create_summary_metadata(),
    )
    return Summary(value=[value])
