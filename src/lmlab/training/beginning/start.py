"""Where a run begins: anew, where it was, at another run's checkpoint, or with foreign weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L

from lmlab.config.fingerprint import fingerprint
from lmlab.config.schema import Train
from lmlab.console import say
from lmlab.data.datamodule import TextDataModule
from lmlab.data.tokenizer import Tokenizer
from lmlab.data.tokens import TokenizedCorpus, text_of
from lmlab.errors import LabError
from lmlab.exchange.foreign import Foreign
from lmlab.files import read_small, write_atomically
from lmlab.runs.checkpoint import (
    WEIGHTS_ALONE,
    Resumed,
    keeps_weights_alone,
    newest_whole,
    read_checkpoint,
    write_checkpoint,
)
from lmlab.runs.continuing import parent_checkpoint, run_to_continue
from lmlab.runs.directory import TOKENIZER, RunDirectory
from lmlab.runs.parents import checkpoint_path, foreign_parent
from lmlab.runs.spent import NOTHING, Spent, spent_at
from lmlab.training.beginning.branch import first_checkpoint, fitted
from lmlab.training.beginning.restored import check_goes_on
from lmlab.training.module import LanguageModule

MOST_TOKENIZER = 1 << 28  # bytes


@dataclass
class Start:
    """Where the run of a config begins; decided once, by `find`."""

    config: Train
    run: RunDirectory | None  # the one that goes on; None: it is new
    parent: dict[str, Any] | None = None  # the checkpoint of another run that it begins from
    before: Spent = NOTHING  # what had been spent up to that checkpoint
    foreign: Foreign | None = None  # the weights of others that it begins with

    @classmethod
    def find(cls, config: Train, looks_for_run: bool = True) -> Start:
        """Where the run of a resolved config begins. Of several processes only the first
        `looks_for_run`: one that the config does not name.

        Raises:
            LabError: if the run that it names cannot go on with it, or its parent is not there.
        """
        start = cls(config, run_to_continue(config, looks_for_run))
        named = config.begins_from
        has_begun = start.run is not None and (start.is_finished or start.run.checkpoints())
        if named is None or has_begun:
            return start
        start.foreign = foreign_parent(named)
        if start.foreign is None:
            start.parent, start.before = parent_checkpoint(named)
        return start

    @property
    def is_finished(self) -> bool:
        """Whether the run is where the config wants it: at its end, or at the step to pause at."""
        if self.run is None:
            return False
        record, pause_at = self.run.record, self.config.pause_at
        if record.get("status") == "paused" and pause_at is not None:
            return bool(record["step"] >= pause_at)
        is_done = record.get("status") == "done"
        return is_done and record["step"] >= self.config.trainer.max_steps

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the run that this one begins from; None if it begins from none.

        It stands in the parent's checkpoint, and in the run's directory once there is one.
        """
        named = self.config.begins_from
        if named is None:
            return None
        if self.parent is not None:
            return Tokenizer.from_json(self.parent["tokenizer"])
        if self.run is not None and (self.run.path / TOKENIZER).is_file():
            return _stored_tokenizer(self.run)
        if (foreign := self.foreign or foreign_parent(named)) is not None:
            return foreign.tokenizer()
        return Tokenizer.from_json(read_checkpoint(checkpoint_path(named))["tokenizer"])

    def text(self) -> TokenizedCorpus:
        """The text of the run, as ids.

        Raises:
            LabError: if it is another than the run began with.
        """
        text = text_of(self.config, self.tokenizer())
        run = self.run
        if run is not None and run.record.get("corpus_sha256", text.sha256) != text.sha256:
            raise LabError(f"run={run.path} cannot go on: its corpus has changed since it began")
        return text

    def keep_moved_text(self, run: RunDirectory) -> None:
        """Keep where the text of a finished run is now, if that was said.

        Raises:
            LabError: if another text is there.
        """
        if self.config.corpus == run.config["corpus"]:
            return
        text = text_of(self.config, self.tokenizer())
        if run.record.get("corpus_sha256") != text.sha256:
            raise LabError(f"run={run.path}: its corpus has changed since it was trained")
        run.keep_corpus(self.config.corpus, text.sha256)

    def load_into(self, module: LanguageModule, callbacks: Sequence[L.Callback]) -> None:
        """Give a module the weights of others, or see to it that it can go on with the parent's.

        Raises:
            LabError: if it cannot.
        """
        if self.foreign is not None:
            module.model.load_state_dict(self.foreign.weights(module.model))
        if self.parent is not None:
            self.parent = fitted(self.parent, module, callbacks)

    def keep_in(
        self,
        run: RunDirectory,
        module: LanguageModule,
        data: TextDataModule,
        callbacks: list[L.Callback],
    ) -> None:
        """Put what the run begins with into its directory: it needs its parent no more."""
        if self.parent is None and self.foreign is None:
            return
        first = None
        if self.parent is not None:
            first = first_checkpoint(self.parent, module, data, callbacks, self.before)
        write_atomically(run.path / TOKENIZER, json.dumps(module.about["tokenizer"]).encode())
        if first is not None:
            run.update(before=self.before.recorded, **self.before.recorded)
            write_checkpoint(first, run.step_checkpoint(first["global_step"]))

    def resumed(
        self, run: RunDirectory, module: LanguageModule, callbacks: list[L.Callback]
    ) -> Resumed | None:
        """The checkpoint to go on from; None where the run is new and has no parent."""
        if self.run is None and self.parent is None:
            return None
        if self.run is not None and _began_otherwise(self.run, self.config):
            say("it was begun by an earlier lmlab, whose schedule ended a step before today's")
        fits = partial(check_goes_on, module=module, callbacks=callbacks)
        newest = newest_whole(run, fits)
        if newest is None:
            if keeps_weights_alone(run):
                raise LabError(f"run={run.path} cannot go on: {WEIGHTS_ALONE}")
            return Resumed(0, None)
        path, contents = newest
        spent = spent_at(contents, run.record)
        return Resumed(contents["global_step"], path.absolute(), contents, spent)


def _began_otherwise(run: RunDirectory, config: Train) -> bool:
    today = fingerprint(config.plain())
    return run.record.get("fingerprint", today) != today


def _stored_tokenizer(run: RunDirectory) -> Tokenizer:
    try:
        stored = read_small(run.path / TOKENIZER, MOST_TOKENIZER, within=run.path)
        return Tokenizer.from_json(json.loads(stored))
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{run.path / TOKENIZER} cannot be read: {error}") from error
