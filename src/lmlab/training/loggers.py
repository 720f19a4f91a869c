"""The curves on disk: TensorBoard's event files, and a CSV beside them."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import FileWriter

from lmlab.files import write_atomically
from lmlab.training import board

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

BY_TOKENS = {"train/loss", "val/loss"}  # shown by tokens seen as well

Curves = dict[str, list[tuple[float, int, float]]]  # by tag: wall time, step, value

BEGIN, END = ".begin", ".end"  # how the files of a run's beginning and of its end are called


class EventFiles(TensorBoardLogger):
    """Lightning's logger, which also writes what follows from the metrics that it is given:

    `val/loss_best`, the lowest val/loss so far; `val/loss_gap`, val/loss - train/loss_eval;
    `train/seconds`, the time that training took to each evaluation, evaluations included; and
    `vs_tokens/…`, the losses by tokens seen instead of steps.

    What is known before the first step, and what is known after the last, have event files of their
    own. TensorBoard keeps the first hyperparameters and the first end that it finds in a run, so a
    run that goes on writes these two files anew.
    """

    def __init__(self, folder: Path, resume_step: int | None = None):
        """`resume_step` is where a run goes on; what it had written after that is forgotten."""
        purge_step = 0
        self._told: Curves = {}
        if resume_step is not None:
            # TensorBoard heeds purge_step from its second sight of one on: the first it takes for
            # the beginning.
            purge_step = resume_step + 1
            _delete(folder, BEGIN, END)
            self._told = _curves(folder, resume_step)
        # Empty name and version: the run directory is the one folder for everything.
        super().__init__(
            folder, name="", version="", default_hp_metric=False, purge_step=purge_step
        )
        self.folder, self.resume_step = folder, resume_step
        self._best = min((loss for *_, loss in self._told.get("val/loss", [])), default=math.inf)
        self._seconds = self._told.get("train/seconds", [(0.0, 0, 0.0)])[-1][2]
        self._began, self._tokens_per_step = time.monotonic(), 0

    @rank_zero_only
    def begin(self, summaries: list[Summary], tokens_per_step: int) -> None:
        """Write what is known before the first step."""
        self._write_file(BEGIN, summaries, 0)
        self._began, self._tokens_per_step = time.monotonic(), tokens_per_step
        for tag in BY_TOKENS:
            for wall_time, step, loss in self._told.get(tag, []):
                # To TensorBoard's purge these are steps: it kept those up to resume_step itself.
                if step * tokens_per_step > (self.resume_step or 0):
                    self._by_tokens(tag, loss, step, wall_time)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        step, more = step or 0, {}
        if "val/loss" in metrics:
            self._best = min(self._best, metrics["val/loss"])
            more["val/loss_best"] = self._best
            more["train/seconds"] = self._seconds + time.monotonic() - self._began
            if "train/loss_eval" in metrics:
                more["val/loss_gap"] = metrics["val/loss"] - metrics["train/loss_eval"]
        super().log_metrics(more, step)
        for tag in BY_TOKENS & metrics.keys():
            self._by_tokens(tag, metrics[tag], step)

    def _by_tokens(self, tag: str, loss: float, step: int, wall_time: float | None = None) -> None:
        tokens = step * self._tokens_per_step
        self.experiment.add_scalar(f"vs_tokens/{tag}", loss, tokens, wall_time)

    @rank_zero_only
    def log_text(self, tag: str, text: str, step: int) -> None:
        """A text, shown as it was typed."""
        self.experiment._get_file_writer().add_summary(board.text(tag, text), step)

    @rank_zero_only
    def save(self) -> None:
        """Without the hparams.yaml that Lightning leaves beside our config.yaml."""
        self.experiment.flush()

    @rank_zero_only
    def begin_end(self) -> None:
        """What is logged after training goes into a file of its own.

        Its steps are those of the last checkpoint, so a resumed run could not purge it by step; it
        deletes the file and writes it again.
        """
        self.experiment.close()
        self.experiment.filename_suffix = END

    @rank_zero_only
    def end(self, status: str) -> None:
        """Write how the run ended."""
        self.experiment.close()
        self._write_file(END, [board.ending(status)], 0)

    def _write_file(self, suffix: str, summaries: list[Summary], step: int) -> None:
        writer = FileWriter(self.folder, filename_suffix=suffix)
        for summary in summaries:
            writer.add_summary(summary, step)
        writer.close()


def _delete(folder: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        for path in folder.glob(f"events*{suffix}"):
            path.unlink()


def _curves(folder: Path, last_step: int) -> Curves:
    """The curves of a run so far, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [
            (point.wall_time, point.step, point.value)
            for point in events.Scalars(tag)
            if point.step <= last_step
        ]
        for tag in ("train/loss", "val/loss", "train/seconds")
        if tag in events.Tags()["scalars"]
    }


class MetricsCSV(Logger):
    """metrics.csv: a row for each step that has anything to say, a column for each metric.

    Unlike Lightning's CSVLogger it goes on with the file of a resumed run, and never leaves one
    half-written.
    """

    def __init__(self, path: Path, resume_step: int | None = None):
        """`resume_step` keeps the rows of an earlier start up to that step."""
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {}
        if resume_step is not None and path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    step = int(row.pop("step"))
                    if step <= resume_step:
                        for of_the_end in ("val/loss_full", "val/bpc_full"):
                            row.pop(of_the_end, None)  # it is not the end any more
                        self.rows[step] = {key: value for key, value in row.items() if value}

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config has a file of its own."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(step or 0, {}).update(metrics)

    @rank_zero_only
    def save(self) -> None:
        if not self.rows:
            return
        columns = sorted({key for row in self.rows.values() for key in row})
        text = io.StringIO()
        lines = csv.DictWriter(text, ["step", *columns], lineterminator="\n")
        lines.writeheader()
        lines.writerows({"step": step, **row} for step, row in sorted(self.rows.items()))
        write_atomically(self.path, text.getvalue().encode())

    def finalize(self, status: str) -> None:
        self.save()


def loggers(config: dict[str, Any], folder: Path, resume_step: int | None) -> list[Logger]:
    """The loggers of a config, writing into `folder`; on with an earlier start's curves."""
    chosen: list[Logger] = []
    if config["logger"]["tensorboard"]:
        chosen.append(EventFiles(folder, resume_step))
    if config["logger"]["csv"]:
        chosen.append(MetricsCSV(folder / "metrics.csv", resume_step))
    return chosen
