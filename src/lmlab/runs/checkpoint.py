"""Checkpoints: plain data, written atomically, loaded without running any code in them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from rich.filesize import decimal
from torch import nn

from lmlab.config.trust import UntrustedError
from lmlab.console import say
from lmlab.errors import LabError
from lmlab.files import write_atomically
from lmlab.models.inside.memory_limit import memory_bytes
from lmlab.runs import contents
from lmlab.runs.directory import RunDirectory
from lmlab.runs.spent import NOTHING, Spent

# Further weights that a checkpoint may hold: {"step": …, "weights": {name of a parameter: tensor}}.
EMA_KEY, SWA_KEY = "ema", "swa"  # averages
TRAINED_KEY = "trained"  # those that training goes on with, where the run's own are averages
BESIDE = (EMA_KEY, SWA_KEY, TRAINED_KEY)
MARK, N_DIGITS = b"lmlab-sha256:", 64  # of the comment that ends a checkpoint
WEIGHTS_ALONE = (
    "only its best's weights are kept (checkpoint.keep=0), and neither the optimizer's state nor "
    "the place in the data"
)
T = TypeVar("T")


@dataclass
class Resumed:
    """Where a run that is continued goes on."""

    step: int
    checkpoint: Path | None  # None: it ended before it wrote one
    contents: dict[str, Any] | None = None  # of the checkpoint, until Lightning takes them
    spent: Spent = NOTHING  # up to the step

    @property
    def place(self) -> Resumed:
        """The same without contents, which each process reads for itself."""
        return Resumed(self.step, self.checkpoint)


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint, with nothing half-written ever at its path.

    Raises:
        LabError: if it cannot be written.
    """
    # Into memory first: a full disk then is an ordinary error of an ordinary write.
    content = io.BytesIO()
    torch.save(checkpoint, content)
    seal(content)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror or error}") from error
    write_atomically(path, content.getbuffer())


def weights_alone(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without what training gathers beside weights, their averages and the step: it
    can be used, and begun from, but not gone on with."""
    gathered = ("optimizer_states", "lr_schedulers", "since_log")
    lists: dict[str, Any] = {name: [] for name in gathered}
    return {**checkpoint, **lists, "callbacks": {}, "TextDataModule": {}, "random": None}


def is_weights_alone(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is what `weights_alone` leaves of one."""
    return checkpoint["global_step"] > 0 and not checkpoint.get("optimizer_states")


def keeps_weights_alone(run: RunDirectory) -> bool:
    """Whether a run's best is what `weights_alone` leaves of a checkpoint."""
    try:
        return is_weights_alone(read_checkpoint(run.checkpoint("best")))
    except LabError:  # there is none, or it is damaged
        return False


def seal(content: io.BytesIO) -> None:
    """Put a digest of every byte behind what torch.save wrote: the comment of its zip."""
    content.seek(-2, os.SEEK_END)  # the comment's length comes last
    content.write(struct.pack("<H", len(MARK) + N_DIGITS) + MARK)
    content.write(hashlib.sha256(content.getbuffer()).hexdigest().encode())


def _check_bytes(file: BinaryIO) -> None:
    """Compare the digest, or the sums that zip keeps where an older checkpoint has no digest."""
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


def read_checkpoint(path: Path) -> dict[str, Any]:
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
        contents.check_contents(checkpoint, n_bytes)
    except LabError as error:
        raise LabError(f"checkpoint {path} was not written by lmlab: {error}") from error
    return checkpoint


def newest_whole(
    run: RunDirectory, check: Callable[[dict[str, Any]], None] = lambda checkpoint: None
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

    return newest(run, use)


def newest(run: RunDirectory, use: Callable[[Path, dict[str, Any]], T]) -> T | None:
    """What `use` makes of the newest checkpoint that is whole; see `newest_whole`."""
    paths = run.checkpoints()
    problems = []
    for path in paths:
        try:
            run.check_checkpoint(path)
            used = use(path, read_checkpoint(path))
        except UntrustedError:  # it is whole, and those before it will name the same
            raise
        except LabError as error:
            problems.append(naming_checkpoint(path, error))
            continue
        for problem in problems:
            say(f"{problem}; going by the one before, {path.name}")
        return used
    if problems:
        raise LabError(
            f"run={run.path}: none of its {len(paths)} checkpoints is whole: {problems[0]}"
        )
    return None


def naming_checkpoint(path: Path, error: LabError) -> str:
    return str(error) if str(path) in str(error) else f"checkpoint {path}: {error}"


def load_averaged(model: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Put the averaged weights of the checkpoint at `path` into a model.

    Raises:
        LabError: if it has none, or they do not fit the model.
    """
    if checkpoint.get(EMA_KEY) is None:
        raise LabError(
            f"checkpoint=ema: {path} holds no averaged weights; train with callbacks=ema"
        )
    weights = checkpoint[EMA_KEY]["weights"]
    try:
        contents.check_weights(weights, model)
    except LabError as error:
        raise LabError(f"checkpoint {path}: of its averaged weights, {error}") from error
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])
