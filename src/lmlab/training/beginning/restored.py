"""A run's model again, from its checkpoint; and whether a run may go on from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lmlab.config import build
from lmlab.config.check import check_plain
from lmlab.config.fingerprint import check_continues
from lmlab.config.schema import Data, Train
from lmlab.config.stored import with_todays_defaults
from lmlab.config.trust import check_stored
from lmlab.console import say
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.models.inside.document_mask import keep_within
from lmlab.runs import contents
from lmlab.runs.checkpoint import BESIDE, load_averaged, naming_checkpoint, newest, read_checkpoint
from lmlab.runs.directory import RunDirectory
from lmlab.training.preflight import check_logits, model_on_meta

if TYPE_CHECKING:
    import lightning as L

    from lmlab.training.module import LanguageModule

DOUBLE = "64-true"


def check_goes_on(
    checkpoint: dict[str, Any], module: LanguageModule, callbacks: Sequence[L.Callback]
) -> None:
    """Whether a run of this module may go on from a checkpoint. The weights are loaded in passing.

    Raises:
        LabError: if it is another experiment's, or a part of it is missing or does not fit.
    """
    contents.check_continuable(checkpoint)
    about, model = module.about, module.model
    stored = with_todays_defaults(checkpoint["config"])
    check_continues(stored, about["config"], may_change=("corpus",))  # its sha256 decides
    for key in ("corpus_sha256", "tokenizer"):
        if checkpoint[key] != about[key]:
            raise LabError(f"its {key} is another")
    if checkpoint["global_step"] > module.max_steps:
        raise LabError(
            f"its global_step is {checkpoint['global_step']}, and trainer.max_steps is "
            f"{module.max_steps}"
        )
    _load(model, checkpoint)
    check_beside(checkpoint, model)
    if module.beside is not None:
        contents.check_weights(contents.weights_of(checkpoint, "beside."), module.beside)
    trains = any(p.requires_grad for p in model.parameters())
    if trains and checkpoint["global_step"]:
        contents.check_optimizer_state(checkpoint["optimizer_states"], module.fresh_optimizer)
    contents.check_callbacks(checkpoint["callbacks"], callbacks)


def check_beside(checkpoint: Mapping[str, Any], model: nn.Module) -> None:
    """Whether averages of a checkpoint's, and weights that they stand for, fit a model.

    Raises:
        LabError: if they do not.
    """
    for key in BESIDE:
        if checkpoint.get(key) is not None:
            contents.check_weights(checkpoint[key]["weights"], model)


def _load(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Put a checkpoint's weights into a model.

    Raises:
        LabError: if they do not fit it.
    """
    weights = contents.weights_of(checkpoint)
    contents.check_weights(weights, model)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        last_line = str(error).splitlines()[-1].strip()
        raise LabError(f"its weights do not fit the model: {last_line[:300]}") from error


@dataclass(frozen=True)
class Trained:
    """A model as a checkpoint holds it, and what it needs to be used."""

    config: Train
    tokenizer: Tokenizer
    model: nn.Module
    corpus_sha256: str
    step: int
    path: Path

    def check_beside(
        self, key: str, run: str, tokenizer: Tokenizer, corpus_sha256: str, data: Data
    ) -> None:
        """Whether it can be asked beside another run, of these tokens, this text and `data`; a
        remark where it may have been trained on what is val there. `key` names `run`.

        Raises:
            LabError: if it reads other tokens, or fewer at a time.
        """
        mine = self.config.data
        if self.tokenizer.stored() != tokenizer.stored():
            raise LabError(f"{key}={run} reads other tokens than this run")
        if mine.block_size < data.block_size:
            raise LabError(
                f"{key}={run} reads {mine.block_size} tokens at a time, and this run "
                f"{data.block_size} (data.block_size)"
            )
        self.remark_on_text(key, run, corpus_sha256, data)

    def remark_on_text(self, key: str, run: str, corpus_sha256: str, data: Data) -> None:
        """Say so where it may have been trained on what is val of another run."""
        mine = self.config.data
        if self.corpus_sha256 != corpus_sha256 or mine.val_fraction < data.val_fraction:
            say(f"{key}={run} was trained on other text: val may not be new to it")


def restore(run: RunDirectory, which: str) -> Trained:
    """The model of a run's checkpoint: `last`, `best`, or one given by path; in eval mode.

    `ema` is the last one with its averaged weights.

    Raises:
        LabError: if there is none, or it cannot be used.
    """
    of_run = run if which in ("last", "ema") else None
    read = None
    if of_run is not None:
        read = newest(run, lambda path, checkpoint: (_restored(run, path, checkpoint), checkpoint))
    if read is None:
        path = run.checkpoint(which)
        try:
            checkpoint = read_checkpoint(path)
            read = _restored(of_run, path, checkpoint), checkpoint
        except LabError as error:
            raise LabError(naming_checkpoint(path, error)) from error
    trained, checkpoint = read
    if which == "ema":
        load_averaged(trained.model, checkpoint, trained.path)
    return trained


def _restored(run: RunDirectory | None, path: Path, checkpoint: dict[str, Any]) -> Trained:
    """The model in a checkpoint, which must be of a run if one is given."""
    stored = with_todays_defaults(checkpoint["config"])
    check_stored(stored, f"checkpoint {path}")
    config = check_plain(stored, Train, parts=("model",))  # the others may be gone
    tokenizer = Tokenizer.from_json(checkpoint["tokenizer"])
    try:
        model = _model(config, tokenizer.vocab_size, contents.weights_of(checkpoint))
        _load(model, checkpoint)
        if config.data.order == "documents" and tokenizer.end_of_text is not None:
            keep_within(model, tokenizer.end_of_text)
    except LabError as error:
        raise LabError(
            f"checkpoint {path} does not fit the model in its own config: {error}"
        ) from error
    target, block_size = config.model["_target_"], config.data.block_size
    check_logits(model, target, tokenizer.vocab_size, block_size)
    if run is not None and (beside := config_beside(run)) is not None:
        try:
            check_continues(config.plain(), beside.plain(), may_change=("corpus",))
        except LabError as error:
            raise LabError(f"checkpoint {path} is of another run: {error}") from error
    corpus_sha256, step = checkpoint["corpus_sha256"], checkpoint["global_step"]
    return Trained(config, tokenizer, model.eval(), corpus_sha256, step, path)


def _model(config: Train, vocab_size: int, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """A model that `weights` fit, in float64 if it was trained so, else in float32.

    Its shapes are compared before it takes any memory.
    """
    most = 1000 + 16 * len(weights)  # of which some hold no weights
    with torch.random.fork_rng(devices=[]):
        on_shapes = model_on_meta(config, vocab_size, most)
    if on_shapes is not None:
        contents.check_weights(weights, on_shapes)
    model = build.model(config.model, vocab_size, config.data.block_size, most)
    return model.double() if precision_of(config) == DOUBLE else model


def precision_of(config: Train) -> str:
    """In which a model is used that was trained with this config."""
    return DOUBLE if str(config.trainer.precision) in ("64", DOUBLE) else "32-true"


def config_beside(run: RunDirectory) -> Train | None:
    """The config that a run has beside its checkpoints; a checkpoint is used without it, too."""
    try:
        check_stored(run.config, f"run={run.path}")
        return check_plain(run.config, Train, parts=())
    except LabError:
        return None
