"""Checkpoints: plain data, written atomically, loaded without running any code in them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.filesize import decimal
from torch import nn

from lmlab import build, schema
from lmlab.conf import with_todays_defaults
from lmlab.config import check_plain
from lmlab.console import say
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.files import write_atomically
from lmlab.fingerprint import check_continues
from lmlab.preflight import check_logits
from lmlab.runs import Run
from lmlab.training import contents, ema
from lmlab.training.footprint import memory_bytes, shapes

if TYPE_CHECKING:
    from lmlab.training.module import LanguageModule

MARK, N_DIGITS = b"lmlab-sha256:", 64  # of the comment that ends a checkpoint

DOUBLE = "64-true"

T = TypeVar("T")


@dataclass
class Start:
    """Where a run that is continued goes on."""

    step: int
    checkpoint: Path | None  # None: it ended before it wrote one
    contents: dict[str, Any] | None = None  # of the checkpoint, until Lightning takes them


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to disk, with nothing half-written ever at the checkpoint's path.

    What was read to find out where to go on is not read again.
    """

    def __init__(self, start: Start | None = None):
        self.start = start

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        # Into memory first: a full disk then is an ordinary error of an ordinary write.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        seal(content)
        path = Path(path)
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise LabError(f"cannot write {path}: {error.strerror or error}") from error
        write_atomically(path, content.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        start = self.start
        if start is not None and start.contents is not None and Path(path) == start.checkpoint:
            contents, start.contents = start.contents, None
            return contents
        return read(Path(path))


def seal(content: io.BytesIO) -> None:
    """Put a digest of every byte behind what torch.save wrote: the comment of its zip."""
    content.seek(-2, os.SEEK_END)  # the comment's length comes last
    content.write(struct.pack("<H", len(MARK) + N_DIGITS) + MARK)
    content.write(hashlib.sha256(content.getbuffer()).hexdigest().encode())


def _check_bytes(file: BinaryIO) -> None:
    """Compare the digest, or in a checkpoint of before there was one, the sums that zip keeps.

    Raises:
        ValueError: if they differ, or it is no checkpoint at all.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:  # its end is read first: a large hole has none
        if sum(entry.file_size for entry in archive.infolist()) > size:
            raise ValueError("it holds more than its size")
        if not archive.comment:
            damaged = archive.testzip()  # torch.load does not compare the checksums it wrote
            if damaged is not None:
                raise ValueError(f"{damaged} in it does not check")
            return
    file.seek(0)
    digest, left = hashlib.sha256(), max(0, size - N_DIGITS)
    while block := file.read(min(left, 1 << 20)):
        digest.update(block)
        left -= len(block)
    if file.read() != digest.hexdigest().encode():
        raise ValueError("its sha256 is another")


def read(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, on the CPU.

    Raises:
        LabError: if a byte of it is damaged, or it holds anything but plain data and tensors, of
            the types that they should be.
    """
    if not path.is_file():  # opening a pipe would wait for its other end
        raise LabError(f"checkpoint {path} is no regular file")
    n_bytes, has = path.stat().st_size, memory_bytes()
    if n_bytes > has:
        raise LabError(
            f"checkpoint {path} is of {decimal(n_bytes)}, and this machine has {decimal(has)} of "
            "memory"
        )
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that are refused below
            _check_bytes(file)
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LabError(f"checkpoint {path} is refused: loading it would run code in it") from error
    except Exception as error:  # zipfile, zlib, torch and the unpickler each raise their own
        raise LabError(f"checkpoint {path} is damaged or cut off") from error
    try:
        contents.check(checkpoint, n_bytes)
    except LabError as error:
        raise LabError(f"checkpoint {path} was not written by lmlab: {error}") from error
    return checkpoint


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
    if checkpoint.get(ema.KEY) is not None:
        contents.check_weights(checkpoint[ema.KEY]["weights"], model)
    check_gathered(checkpoint, module, callbacks)


def check_gathered(
    checkpoint: Mapping[str, Any], module: LanguageModule, callbacks: Sequence[L.Callback]
) -> None:
    """Whether what the optimizer and the callbacks kept fits those of a run.

    Raises:
        LabError: if it does not.
    """
    trains = any(p.requires_grad for p in module.model.parameters())
    if trains and checkpoint["global_step"]:
        contents.check_optimizer(checkpoint["optimizer_states"], module.fresh_optimizer)
    contents.check_callbacks(checkpoint["callbacks"], callbacks)


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
        said = str(error).splitlines()[-1].strip()
        raise LabError(f"its weights do not fit the model: {said[:300]}") from error


def newest_whole(
    run: Run, check: Callable[[dict[str, Any]], None] = lambda checkpoint: None
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that can be read, and what it holds; None if it has none.

    Damaged ones, and those that `check` refuses with a LabError, are reported and passed over.

    Raises:
        LabError: if there are checkpoints and none is whole.
    """

    def use(path: Path, checkpoint: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        try:
            check(checkpoint)
        except LabError as error:
            raise LabError(f"checkpoint {path} is of another run: {error}") from error
        return path, checkpoint

    return _newest(run, use)


def _newest(run: Run, use: Callable[[Path, dict[str, Any]], T]) -> T | None:
    paths = run.checkpoints()
    problems = []
    for path in paths:
        try:
            found = use(path, read(path))
        except LabError as error:
            problems.append(_named(path, error))
            continue
        for problem in problems:
            say(f"{problem}; going by the one before, {path.name}")
        return found
    if problems:
        raise LabError(
            f"run={run.path}: none of its {len(paths)} checkpoints is whole: {problems[0]}"
        )
    return None


@dataclass(frozen=True)
class Trained:
    """A model as a checkpoint holds it, and what it needs to be used."""

    config: dict[str, Any]
    tokenizer: Tokenizer
    model: nn.Module
    corpus_sha256: str
    step: int
    path: Path

    def check_beside(
        self, key: str, run: str, tokenizer: Tokenizer, corpus_sha256: str, data: dict[str, Any]
    ) -> None:
        """Whether it can be asked beside another run, of these tokens, this text and `data`; a
        remark where it may have been trained on what is val there. `key` names `run`.

        Raises:
            LabError: if it reads other tokens, or fewer at a time.
        """
        mine = self.config["data"]
        if self.tokenizer.stored() != tokenizer.stored():
            raise LabError(f"{key}={run} reads other tokens than this run")
        if mine["block_size"] < data["block_size"]:
            raise LabError(
                f"{key}={run} reads {mine['block_size']} tokens at a time, and this run "
                f"{data['block_size']} (data.block_size)"
            )
        if self.corpus_sha256 != corpus_sha256 or mine["val_fraction"] < data["val_fraction"]:
            say(f"{key}={run} was trained on other text: val may not be new to it")


def restore(run: Run, which: str) -> Trained:
    """The model of a run's checkpoint: `last`, `best`, or one given by path; in eval mode.

    `ema` is the last one with its averaged weights.

    Raises:
        LabError: if there is none, or it cannot be used.
    """
    if which in ("last", "ema"):
        found = _newest(
            run, lambda path, checkpoint: (_restored(run, path, checkpoint), checkpoint)
        )
        if found is not None:
            trained, checkpoint = found
            if which == "ema":
                ema.load(trained.model, checkpoint, trained.path)
            return trained
    path = run.checkpoint(which)
    try:
        return _restored(None, path, read(path))
    except LabError as error:
        raise LabError(_named(path, error)) from error


def _named(path: Path, error: LabError) -> str:
    return str(error) if str(path) in str(error) else f"checkpoint {path}: {error}"


def _restored(run: Run | None, path: Path, checkpoint: dict[str, Any]) -> Trained:
    """The model in a checkpoint, which must be of a run if one is given."""
    config = check_plain(with_todays_defaults(checkpoint["config"]), schema.Train)
    tokenizer = Tokenizer.from_json(checkpoint["tokenizer"])
    try:
        model = _model(config, tokenizer.vocab_size, contents.weights_of(checkpoint))
        _load(model, checkpoint)
    except LabError as error:
        raise LabError(
            f"checkpoint {path} does not fit the model in its own config: {error}"
        ) from error
    target, block_size = config["model"]["_target_"], config["data"]["block_size"]
    check_logits(model, target, tokenizer.vocab_size, block_size)
    if run is not None and (stored := _config(run)) is not None:
        try:
            check_continues(config, stored, may_change=("corpus",))
        except LabError as error:
            raise LabError(f"checkpoint {path} is of another run: {error}") from error
    corpus_sha256, step = checkpoint["corpus_sha256"], checkpoint["global_step"]
    return Trained(config, tokenizer, model.eval(), corpus_sha256, step, path)


def _model(
    config: dict[str, Any], vocab_size: int, weights: Mapping[str, torch.Tensor]
) -> nn.Module:
    """A model that `weights` fit, in float64 if it was trained so, else in float32.

    Its shapes are compared before it takes any memory.
    """
    most = 1000 + 16 * len(weights)  # of which some hold no weights
    try:
        with torch.random.fork_rng(devices=[]):
            on_shapes = shapes(config, vocab_size, most)
    except build.TooManyPartsError:
        raise
    except LabError:  # somebody's own may compute while it is built
        pass
    else:
        contents.check_weights(weights, on_shapes)
    model = build.model(config, vocab_size, most)
    return model.double() if precision_of(config) == DOUBLE else model


def precision_of(config: dict[str, Any]) -> str:
    """In which a model is used that was trained with this config."""
    return DOUBLE if str(config["trainer"]["precision"]) in ("64", DOUBLE) else "32-true"


def _config(run: Run) -> dict[str, Any] | None:
    """The config that a run has beside its checkpoints; a checkpoint is used without it, too."""
    try:
        return check_plain(run.config, schema.Train)
    except LabError:
        return None
