"""Checkpoints: plain data, written atomically, loaded without running any code in them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from lmlab.config import build, schema
from lmlab.config.check import check_plain
from lmlab.config.fingerprint import check_continues
from lmlab.config.stored import with_todays_defaults
from lmlab.config.trust import UntrustedError, check_stored
from lmlab.console import say
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.files import write_atomically
from lmlab.runs.directory import Run

EMA_KEY = "ema"  # of a checkpoint: {"step": …, "weights": {name of a parameter: tensor}}


def load_averaged(model: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Put the averaged weights of the checkpoint at `path` into a model.

    Raises:
        LabError: if it has none, or they do not fit the model.
    """
    weights = (checkpoint.get(EMA_KEY) or {}).get("weights")
    if not isinstance(weights, dict):
        raise LabError(
            f"checkpoint=ema: {path} holds no averaged weights; train with callbacks=ema"
        )
    for name, parameter in model.named_parameters():
        stored = weights.get(name)
        if not isinstance(stored, Tensor) or stored.shape != parameter.shape:
            raise LabError(f"checkpoint {path}: its averaged {name} does not fit the model")
        parameter.data.copy_(stored)


NEEDED = {
    "state_dict": dict,
    "config": dict,
    "tokenizer": dict,
    "corpus_sha256": str,
    "global_step": int,
}
MARK, N_DIGITS = b"lmlab-sha256:", 64  # of the comment that ends a checkpoint
NO_COMMENT = 22  # bytes of a zip's last record, where no comment follows

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
        ValueError: if they differ.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - NO_COMMENT))
    end = file.read()
    file.seek(0)
    if end.startswith(b"PK\x05\x06") and end.endswith(b"\0\0"):
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums it wrote
        if damaged is not None:
            raise ValueError(f"{damaged} in it does not check")
        return
    digest, left = hashlib.sha256(), max(0, size - N_DIGITS)
    while block := file.read(min(left, 1 << 20)):
        digest.update(block)
        left -= len(block)
    if file.read() != digest.hexdigest().encode():
        raise ValueError("its sha256 is another")


def read(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, on the CPU.

    Raises:
        LabError: if a byte of it is damaged, or it holds anything but plain data and tensors.
    """
    if not path.is_file():  # opening a pipe would wait for its other end
        raise LabError(f"checkpoint {path} is no regular file")
    try:
        with path.open("rb") as file:
            _check_bytes(file)
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LabError(f"checkpoint {path} is refused: loading it would run code in it") from error
    except Exception as error:  # zipfile, zlib, torch and the unpickler each raise their own
        raise LabError(f"checkpoint {path} is damaged or cut off") from error
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(key), kind) for key, kind in NEEDED.items()
    ):
        raise LabError(f"checkpoint {path} was not written by lmlab: it lacks {', '.join(NEEDED)}")
    try:
        json.dumps(checkpoint["config"])
    except (TypeError, ValueError, RecursionError) as error:
        raise LabError(f"checkpoint {path}: its config is no plain data ({error})") from error
    return checkpoint


def check_goes_on(checkpoint: dict[str, Any], about: dict[str, Any], model: nn.Module) -> None:
    """Whether a run with this model may go on from a checkpoint.

    `about` is what the run will put into its own: config, tokenizer, corpus_sha256.

    Raises:
        LabError: if it is another experiment's, or a parameter is missing or has another shape.
    """
    stored = with_todays_defaults(checkpoint["config"])
    check_continues(stored, about["config"], may_change=("corpus",))  # its sha256 decides
    for key in ("corpus_sha256", "tokenizer"):
        if checkpoint[key] != about[key]:
            raise LabError(f"its {key} is another")
    for name, parameter in model.named_parameters():
        stored = checkpoint["state_dict"].get(f"model.{name}")
        shape = tuple(stored.shape) if isinstance(stored, torch.Tensor) else None
        if shape != tuple(parameter.shape):
            raise LabError(f"its {name} has the shape {shape}, not {tuple(parameter.shape)}")


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
            run.check_checkpoint(path)
            found = use(path, read(path))
        except UntrustedError:  # it is whole, and those before it will name the same
            raise
        except LabError as error:
            named = str(path) in str(error)
            problems.append(str(error) if named else f"checkpoint {path}: {error}")
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
                load_averaged(trained.model, checkpoint, trained.path)
            return trained
    path = run.checkpoint(which)
    return _restored(None, path, read(path))


def _restored(run: Run | None, path: Path, checkpoint: dict[str, Any]) -> Trained:
    """The model in a checkpoint, which must be of a run if one is given."""
    stored = with_todays_defaults(checkpoint["config"])
    check_stored(stored, f"checkpoint {path}")
    config = check_plain(stored, schema.Train)
    tokenizer = Tokenizer.from_json(checkpoint["tokenizer"])
    model = build.model(config, tokenizer.vocab_size)
    weights = {
        name.removeprefix("model."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        said = str(error).splitlines()[-1].strip()
        raise LabError(
            f"checkpoint {path} does not fit the model in its own config: {said}"
        ) from error
    if run is not None and (stored := _config(run)) is not None:
        try:
            check_continues(config, stored, may_change=("corpus",))
        except LabError as error:
            raise LabError(f"checkpoint {path} is of another run: {error}") from error
    corpus_sha256, step = checkpoint["corpus_sha256"], checkpoint["global_step"]
    return Trained(config, tokenizer, model.eval(), corpus_sha256, step, path)


def _config(run: Run) -> dict[str, Any] | None:
    """The config that a run has beside its checkpoints; a checkpoint is used without it, too."""
    try:
        check_stored(run.config, f"run={run.path}")
        return check_plain(run.config, schema.Train)
    except LabError:
        return None
