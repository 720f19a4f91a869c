"""The curves on disk: TensorBoard's event files, and a CSV beside them."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lmlab.files import write_atomically

END = ".end"  # how the file of the last evaluation is called


class EventFiles(TensorBoardLogger):
    """Lightning's logger, without the hparams.yaml that it leaves beside our config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def begin_end(self) -> None:
        """What is logged after training goes into a file of its own.

        Its steps are those of the last checkpoint, so a resumed run could not purge it by step; it
        deletes the file and writes it again.
        """
        self.experiment.close()
        begun = max(Path(self.log_dir).glob("events*"), key=lambda path: path.stat().st_mtime)
        if set(begun.name.rpartition(".")[2]) == {"9"}:
            # TensorBoard reads files in the order of their names, which tell the second and then
            # a count: within one second it would read the tenth before the ninth, and purge it.
            time.sleep(1)
        self.experiment.filename_suffix = END


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
                        row.pop("val/loss_full", None)  # of an end that is not the end any more
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
        # Empty name and version: the run directory is the one folder for everything.
        # purge_step makes TensorBoard forget what an earlier start wrote after the checkpoint. The
        # first start says so too: TensorBoard takes the first such mark that it sees for a
        # beginning, and heeds only those after it.
        purge_step = 0
        if resume_step is not None:
            purge_step = resume_step + 1
            for path in folder.glob(f"events*{END}"):
                path.unlink()
        chosen.append(
            EventFiles(folder, name="", version="", default_hp_metric=False, purge_step=purge_step)
        )
    if config["logger"]["csv"]:
        chosen.append(MetricsCSV(folder / "metrics.csv", resume_step))
    return chosen
