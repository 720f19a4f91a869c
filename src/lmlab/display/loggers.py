"""The curves on disk: TensorBoard's event files, and a CSV beside them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import FileWriter, SummaryWriter

from lmlab.console import log
from lmlab.display.for_tensorboard import summaries
from lmlab.display.for_tensorboard.event_files import (
    BEGIN,
    END,
    Records,
    forget,
    forget_after,
    next_number,
    numbered,
    write_summaries,
)
from lmlab.errors import LabError
from lmlab.files import open_to_read, write_atomically
from lmlab.runs.directory import METRICS, OF_THE_END, SPENT_COLUMNS, RunDirectory
from lmlab.training.costs.costs import Costs

if TYPE_CHECKING:
    from PIL.Image import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

BY_TOKENS = {"train/loss", "val/loss"}  # shown by tokens seen as well
BY_COST = {"train/loss_eval", "val/loss"}  # of evaluations: by seconds and operations as well
MOST_STEPS = 2**63 - 1  # that an event may have

Curves = dict[str, list[tuple[float, int, float]]]  # by tag: wall time, step, value


class EventFile(FileWriter):
    """torch's writer over `Records` instead of a file that it names itself: see `event_files`."""

    def __init__(self, path: Path):
        self.event_writer: Any = Records(path)


class CurveWriter(SummaryWriter):
    """A SummaryWriter that writes to `path`, whichever that is at the time.

    What is touched of torch's writers inside is touched here: there is no public way to name their
    files, or to add a summary that is made already.
    """

    file_writer: Any  # None while closed
    all_writers: Any
    purge_step: int | None

    def __init__(self, path: Path, purge_step: int):
        self.path = path
        super().__init__(str(path.parent), purge_step=purge_step)

    def _get_file_writer(self) -> Any:
        if self.file_writer is None:
            self.file_writer = EventFile(self.path)
            self.all_writers = {self.path.parent: self.file_writer}
            if self.purge_step is not None:
                mark = SessionLog(status=SessionLog.START)
                self.file_writer.add_event(Event(session_log=mark), self.purge_step)
                self.purge_step = None
        return self.file_writer

    def add_summary(self, summary: Summary, step: int) -> None:
        self._get_file_writer().add_summary(summary, step)


class EventFiles(TensorBoardLogger):
    """Lightning's logger, which also writes what follows from the metrics that it is given:

    `val/loss_best`, the lowest val/loss of training so far; `val/loss_gap`, val/loss minus
    train/loss_eval; `train/seconds` and `train/flops`, the time that training took to each
    evaluation, evaluations included, and its floating-point operations; and the losses by tokens
    seen, by milliseconds and by operations instead of steps, as `vs_tokens/…`, `vs_milliseconds/…`
    and `vs_flops/…`. (In place of a step TensorBoard takes whole numbers alone.) As the steps of a
    run that begins from another's checkpoint count on from there, so do all of these.

    What is known before the first step and what is known after the last have files of their own:
    TensorBoard shows the first hyperparameters and the first end that it finds in a run, so a run
    that goes on deletes these two files and writes them again.
    """

    def __init__(self, folder: Path, resume_step: int | None = None):
        """`resume_step` is where a run goes on; what it wrote after that is not shown any more."""
        # An empty name and version make the run directory the folder for everything.
        super().__init__(folder, name="", version="", default_hp_metric=False)
        self.folder, self.resume_step = folder, resume_step
        self._number = 0
        self._best, self._costs = math.inf, Costs()

    @property
    @rank_zero_experiment
    def experiment(self) -> CurveWriter:
        if self._experiment is None:
            # TensorBoard drops nothing at the first purge_step that it meets: it takes that for the
            # beginning. So there is one from the start.
            purge_step = 0 if self.resume_step is None else self.resume_step + 1
            self._number = next_number(self.folder)
            path = numbered(self.folder, self._number)
            self._experiment = CurveWriter(path, purge_step)
        assert isinstance(self._experiment, CurveWriter)
        return self._experiment

    @rank_zero_only
    def begin(self, summaries: list[Summary], costs: Costs) -> None:
        """Write what is known before the first step, and go on from what stood at resume_step."""
        # Where there is no checkpoint to go on from, all that an earlier start left is done again.
        forget(self.folder, *(() if self.resume_step is None else (BEGIN, END)))
        self._costs = costs
        write_summaries(numbered(self.folder, next_number(self.folder), BEGIN), summaries)
        if self.resume_step is not None:
            forget_after(self.folder, self.resume_step)
            self._go_on_from(self.resume_step)

    def _go_on_from(self, resume_step: int) -> None:
        curves = _curves(self.folder, resume_step)
        losses = [loss for _, step, loss in curves.get("val/loss", []) if step]
        self._best = min(losses, default=math.inf)
        seconds = {step: value for _, step, value in curves.get("train/seconds", [])}
        for tag, curve in curves.items():
            for wall_time, step, loss in curve:
                for name, place in self._places(tag, step, seconds.get(step)):
                    # TensorBoard's purge takes tokens for steps: it kept those up to resume_step.
                    if place > resume_step:
                        self.experiment.add_scalar(name, loss, place, wall_time)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        step, more, seconds = step or 0, {}, None
        if "val/loss" in metrics:
            more["val/loss_best"] = min(self._best, metrics["val/loss"])
            if step:  # what a fresh model has is not the best of training
                self._best = more["val/loss_best"]
            spent = self._costs.now(step)
            more["train/seconds"] = seconds = spent.seconds
            if self._costs.flops and spent.flops is not None:
                more["train/flops"] = spent.flops
            if "train/loss_eval" in metrics:
                more["val/loss_gap"] = metrics["val/loss"] - metrics["train/loss_eval"]
                if step == 0:  # there is no other loss on train yet
                    more["train/loss"] = metrics["train/loss_eval"]
        super().log_metrics(more, step)
        for tag, loss in {**metrics, **more}.items():
            for name, place in self._places(tag, step, seconds):
                self.experiment.add_scalar(name, loss, place)

    def _places(self, tag: str, step: int, seconds: float | None) -> Iterator[tuple[str, int]]:
        """Where else a loss is shown: tags, and what they have in place of steps."""
        if tag not in BY_TOKENS | BY_COST:
            return
        spent = self._costs.at(step)
        if tag in BY_TOKENS:
            yield f"vs_tokens/{tag}", spent.tokens
        if tag not in BY_COST:
            return
        if seconds is not None:
            yield f"vs_milliseconds/{tag}", round(1000 * seconds)
        if self._costs.flops and spent.flops is not None and spent.flops <= MOST_STEPS:
            yield f"vs_flops/{tag}", round(spent.flops)

    @rank_zero_only
    def log_text(self, tag: str, text: str, step: int) -> None:
        """A text, shown as it was typed."""
        self.experiment.add_summary(summaries.text(tag, text), step)

    @rank_zero_only
    def log_image(self, tag: str, picture: Image, step: int) -> None:
        """A picture of Pillow's."""
        self.experiment.add_summary(summaries.image(tag, picture), step)

    @rank_zero_only
    def save(self) -> None:
        """Flush, without the hparams.yaml that Lightning leaves beside our config.yaml."""
        self.experiment.flush()

    @rank_zero_only
    def begin_end(self) -> None:
        """Write what is logged from here on into the file of the end.

        Its step is that of the last checkpoint, so a resumed run could not purge it by step.
        """
        self.experiment.close()
        self.experiment.path = self._end

    @rank_zero_only
    def end(self, status: str) -> None:
        """Write how the run ended, if it began."""
        if self._experiment is not None:
            self.experiment.close()
            write_summaries(self._end, [summaries.ending(status)])

    @property
    def _end(self) -> Path:
        return numbered(self.folder, self._number, END)


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
        for tag in sorted(BY_TOKENS | BY_COST | {"train/seconds"})
        if tag in events.Tags()["scalars"]
    }


class MetricsCSV(Logger):
    """metrics.csv: a row for each step that has metrics, a column for each metric.

    Behind the step stands what training had taken when the row was written: seconds, evaluations
    included and pauses not; tokens; floating-point operations, where these are known. A row with
    val/loss tells the seconds of that evaluation, whatever is added to it later.

    Unlike Lightning's CSVLogger it goes on with the file of a resumed run, and never leaves one
    half-written.
    """

    def __init__(self, folder: Path, resume_step: int | None = None):
        """`resume_step` keeps the rows of an earlier start up to that step."""
        super().__init__()
        self.costs = Costs()  # until they are known
        self.path = path = folder / METRICS
        self.rows: dict[int, dict[str, Any]] = {}
        self._changed = False
        if resume_step is None or not path.exists():
            return
        try:
            with io.TextIOWrapper(open_to_read(path, folder), "utf-8", newline="") as file:
                table = csv.DictReader(file, strict=True)
                if not table.fieldnames:
                    raise ValueError("it is empty")
                for row in table:
                    step = int(row.pop("step"))
                    if None in row or None in row.values():
                        raise ValueError(f"the row of step {step} is cut off or too long")
                    if step <= resume_step:
                        for metric in OF_THE_END:
                            row.pop(metric, None)  # it is not the end any more
                        self.rows[step] = {key: value for key, value in row.items() if value}
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise LabError(
                f"{path} is damaged ({error}); delete it to go on without the curve so far"
            ) from error

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config has a file of its own."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = self.rows.setdefault(step or 0, {})
        row.update(metrics)
        if "val/loss" in metrics or SPENT_COLUMNS[0] not in row:
            spent = self.costs.now(step or 0).recorded
            row.update({name: spent[name] for name in SPENT_COLUMNS if name in spent})
        self._changed = True

    @rank_zero_only
    def save(self) -> None:
        if not self._changed:
            return
        keys = {key for row in self.rows.values() for key in row}
        columns = [
            *(name for name in SPENT_COLUMNS if name in keys),
            *sorted(keys.difference(SPENT_COLUMNS)),
        ]
        text = io.StringIO()
        lines = csv.DictWriter(text, ["step", *columns], lineterminator="\n")
        lines.writeheader()
        lines.writerows({"step": step, **row} for step, row in sorted(self.rows.items()))
        write_atomically(self.path, text.getvalue().encode(), waits=False)
        self._changed = False

    def finalize(self, status: str) -> None:
        self.save()


def event_files(loggers: list[Logger]) -> list[EventFiles]:
    """Those of some loggers that write for TensorBoard."""
    return [logger for logger in loggers if isinstance(logger, EventFiles)]


def begin(loggers: list[Logger], module: Any, costs: Costs, started: str) -> None:
    """Tell our loggers what steps cost, and write what TensorBoard shows of a run before the first
    of them; `started` is an ISO time."""
    for logger in loggers:
        if isinstance(logger, MetricsCSV):
            logger.costs = costs
        elif isinstance(logger, EventFiles):
            logger.begin(summaries.opening(module, started), costs)


def begin_end(loggers: list[Logger]) -> None:
    """Have those that write for TensorBoard keep apart what is logged from here on."""
    for logger in event_files(loggers):
        logger.begin_end()


def end(loggers: list[Logger], status: str) -> None:
    """Call `end` of the loggers that have it, with how the run ended: done, paused, pruned,
    interrupted or failed."""
    for logger in loggers:
        if not hasattr(logger, "end"):
            continue
        try:
            logger.end(status)
        # A full disk, which the run itself has reported or outlived.
        except (OSError, LabError) as error:
            log.warning("the curves lack how this run ended: %s", error)


@contextmanager
def told_of_end(loggers: list[Logger], run: RunDirectory) -> Iterator[None]:
    """Loggers learn how a run ended early, once its record says so."""
    try:
        yield
    except BaseException:
        with suppress(LabError):  # the directory may be gone
            end(loggers, run.unchecked_record.get("status", "failed"))
        raise
