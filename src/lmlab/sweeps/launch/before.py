"""The jobs of a sweep that have ended in an earlier launch: no launcher is given them again."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException

from lmlab.config import schema
from lmlab.config.check import check_plain
from lmlab.config.words.command_line import CommandLine
from lmlab.errors import LabError
from lmlab.runs.parents import resolve
from lmlab.sweeps.journal.journal import Event
from lmlab.sweeps.launch.composing import PlainConfigs
from lmlab.sweeps.launch.job import (
    is_finished,
    run_of,
    setting_of,
    sha256_of,
    values_among,
    varied_keys,
)
from lmlab.training.processes.started import check_started_once

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmlab.sweeps.launch.composing import RememberingLoader


class EndedBefore:
    """What has ended of a sweep, found in a few milliseconds a job.

    Of each job the same is asked as where it is trained, see `run_job`. Wherever the answer is not
    plain, the job is trained, or says itself what is wrong.
    """

    def __init__(
        self,
        config: DictConfig,
        loader: RememberingLoader,
        sweep_dir: Path,
        arguments: Sequence[str],
    ):
        """`config` and `arguments` are the sweep's."""
        self._sweep_dir, self._configs = sweep_dir, PlainConfigs(config, loader)
        swept = CommandLine.parse(list(arguments), ()).swept
        self._varied = varied_keys(swept, config.hydra.sweeper)
        # Callbacks of Hydra's want to see every job; and what is never trained never ended.
        self._looks = not config.hydra.callbacks and not config.dry_run
        self._sha256: dict[str, str] = {}  # by what makes the ids

    def event(self, number: int, words: Sequence[str]) -> Event | None:
        """How a job has ended; None if it is to be trained, or may be."""
        if not self._looks:
            return None
        with suppress(LabError, HydraException):
            job = self._configs.of(words)
            if job.plain["from"] is not None:
                return None
            check_started_once(job.plain.get("trainer") or {})
            varied = values_among(self._varied, job.overrides)
            config = resolve(check_plain(job.plain, schema.Train, parts=()))
            run = run_of(config.plain(), self._sweep_dir, varied)
            config = config.model_copy(update={"run_dir": str(run.path), "resume": "auto"})
            if is_finished(run, config, self._sha256_of):
                record = run.record
                loss = record["metrics"].get("val/loss_full")
                where, setting = str(run.path), setting_of(varied)
                return Event(number, record["status"], time.time(), where, loss, setting=setting)
        return None

    def _sha256_of(self, config: schema.Train) -> str:
        key = json.dumps([config.corpus, config.tokenizer, config.data.val_fraction])
        if key not in self._sha256:
            self._sha256[key] = sha256_of(config)
        return self._sha256[key]
