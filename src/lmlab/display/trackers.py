"""Experiment trackers beside the run directory: Weights & Biases, and MLflow.

Lightning has a logger for each. These go further in what a run of the lab needs of them:

- Metrics are kept until `save`, which is called at every evaluation and before every checkpoint: a
  step never waits for a tracker, and what a tracker has does not go beyond the last checkpoint.
- A run that goes on writes into the tracker's run that it began, and leaves no step out and writes
  none twice. A run that fails is the exception: its tracker is given what came after its last
  checkpoint too, since somebody wants to see what went wrong.
- They print nothing, and are over when the run is: they leave no process and no thread.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# Without these the libraries print, or send reports about themselves. A value that is set stays.
QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
LARGEST_BATCH = 1000  # metrics that MLflow takes at once
IN_MLFLOW = {"done": "FINISHED", "failed": "FAILED"}  # how a run ended; all else is KILLED


class AtSave:
    """What both trackers have in common: metrics wait for `save`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._rows: dict[int, tuple[float, dict[str, float]]] = {}  # by step: Unix time, metrics

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._rows.setdefault(step or 0, (time.time(), {}))[1].update(metrics)

    def save(self) -> None:
        """Hand over what waits, in the order of the steps."""
        raise NotImplementedError

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Lightning calls this after every loop; only `end` is the end of a run."""
        self.save()


class WandB(AtSave, WandbLogger):
    """A run of Weights & Biases (extra `wandb`), offline unless `mode` says otherwise.

    Its files are in `wandb/` of the run directory. W&B's own step is the optimizer step, so that
    the parts of an interrupted run do not overlap: W&B refuses a step that it has already.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str | None = None,
        resume_step: int | None = None,
        project: str = "lmlab",
        name: str | None = None,
        mode: str = "offline",
        settings: dict[str, Any] | None = None,
        **more: Any,
    ):
        """`name` is the run's in W&B: that of its directory unless it is given. `settings` and what
        else is given are `wandb.init`'s."""
        _be_quiet()
        import wandb

        wandb.setup()  # reads the environment; what is printed before it is printed in any case
        # An offline run is written to disk every 15 s otherwise, and a killed process loses it.
        settings = {"console": "off", "x_transaction_log_flush_interval": 1.0, **(settings or {})}
        super().__init__(
            name=name or folder.name,
            save_dir=folder,
            id=run_id,
            project=project,
            mode=mode,
            settings=settings,
            **more,
        )
        self._next = 0 if resume_step is None else resume_step + 1

    @rank_zero_only
    def save(self) -> None:
        for step, (when, metrics) in sorted(self._rows.items()):
            # W&B takes a step once, and what is logged after the last evaluation has its step too.
            row = max(step, self._next)
            shown = {**metrics, "trainer/global_step": step, "_timestamp": when}
            self.experiment.log(shown, step=row, commit=True)
            self._next = row + 1
        self._rows.clear()

    @rank_zero_only
    def end(self, status: str) -> None:
        """Close the run, and W&B's own process with it unless another run needs that."""
        import wandb

        self.save()
        self.experiment.finish(exit_code=0 if status in ("done", "paused", "pruned") else 1)
        if wandb.run is None:
            wandb.teardown()


class MLflow(AtSave, MLFlowLogger):
    """A run of MLflow (extra `mlflow`), in the SQLite file `mlflow.db` beside the run's directory
    unless `tracking_uri` says otherwise.

    Lightning's own logger writes one step at a time, and SQLite takes 8 ms for each.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str | None = None,
        tracking_uri: str | None = None,
        experiment_name: str = "lmlab",
        run_name: str | None = None,
        **more: Any,
    ):
        """`run_name` is that of the run's directory unless it is given; what else is given is
        Lightning's."""
        _be_quiet()
        import mlflow  # noqa: F401  # which sets up its logging

        if "MLFLOW_LOGGING_LEVEL" not in os.environ:
            logging.getLogger("mlflow").setLevel(logging.WARNING)
        tracking_uri = tracking_uri or f"sqlite:///{(folder.parent / 'mlflow.db').as_posix()}"
        with _alone_in(tracking_uri):
            super().__init__(
                experiment_name=experiment_name,
                run_name=run_name or folder.name,
                tracking_uri=tracking_uri,
                run_id=run_id,
                **more,
            )
        self._last: dict[str, int] = {}  # by metric: the step up to which MLflow has it

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        if not self._initialized:
            if self._run_id is None:
                self._make_experiment()
            else:
                self._go_on(self._run_id)
        return super().experiment

    def _go_on(self, run_id: str) -> None:
        client = self._mlflow_client
        client.update_run(run_id, status="RUNNING")
        for key in client.get_run(run_id).data.metrics:
            history = client.get_metric_history(run_id, key)
            self._last[key] = max(metric.step for metric in history)

    def _make_experiment(self) -> None:
        """See to it that the experiment is there: another process may begin at the same time."""
        from mlflow.exceptions import MlflowException

        client, name = self._mlflow_client, self._experiment_name
        if client.get_experiment_by_name(name) is None:
            try:
                client.create_experiment(name, artifact_location=self._artifact_location)
            except MlflowException:
                if client.get_experiment_by_name(name) is None:
                    raise

    @rank_zero_only
    def save(self) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(re.sub(r"[^\w/. -]", "_", key), value, int(1000 * when), step)
            for step, (when, row) in sorted(self._rows.items())
            for key, value in row.items()
            if step > self._last.get(key, -1)
        ]
        for i in range(0, len(metrics), LARGEST_BATCH):
            self.experiment.log_batch(str(self.run_id), metrics[i : i + LARGEST_BATCH])
        self._rows.clear()

    @rank_zero_only
    def end(self, status: str) -> None:
        """Hand over what is left, and say how the run ended."""
        self.save()
        self.experiment.set_terminated(str(self.run_id), IN_MLFLOW.get(status, "KILLED"))


@contextmanager
def _alone_in(tracking_uri: str) -> Iterator[None]:
    """Keep other processes from making the tables of an SQLite file while this one does: of several
    jobs that begin at once MLflow lets all but one fail."""
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if not tracking_uri.startswith("sqlite:///"):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        yield


def _be_quiet() -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
