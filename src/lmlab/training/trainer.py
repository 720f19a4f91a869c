"""Lightning's Trainer for a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lmlab.config.schema import Train
from lmlab.data.datamodule import TextDataModule
from lmlab.runs.checkpoint import Resumed, read_checkpoint, write_checkpoint
from lmlab.runs.directory import RunDirectory
from lmlab.training.processes.processes import trainer as trainer_of


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to disk, with nothing half-written ever at the checkpoint's path.

    What was read to find out where to go on is not read again.
    """

    def __init__(self, resumed: Resumed | None = None):
        self.resumed = resumed

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        known = self.resumed
        if known is not None and known.contents is not None and Path(path) == known.checkpoint:
            contents, known.contents = known.contents, None
            return contents
        return read_checkpoint(Path(path))


def make_trainer(
    config: Train,
    run: RunDirectory,
    data: TextDataModule,
    callbacks: list[L.Callback],
    loggers: list[Logger],
    resumed: Resumed | None,
) -> L.Trainer:
    """Lightning's Trainer for a run; `resumed` is where it goes on.

    Raises:
        LabError: if Lightning refuses the settings.
    """
    is_fresh = resumed is None or resumed.checkpoint is None
    own_streams = config.streams == "separate"
    return trainer_of(
        config,
        max_steps=config.trainer.max_steps,
        val_check_interval=data.batches_per_eval,
        check_val_every_n_epoch=None,  # count over the whole run: it is one long epoch
        # An evaluation before the first step. On one global stream it would draw from it.
        num_sanity_val_steps=-1 if config.eval.at_start and is_fresh and own_streams else 0,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO(resumed)],
        default_root_dir=run.path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,  # the module does the logging; this keeps Lightning from warning
    )
