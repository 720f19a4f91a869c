"""Checkpoints: plain data, written atomically, loaded without running any code in them."""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from lmlab import build, schema
from lmlab.conf import with_todays_defaults
from lmlab.config import check_plain
from lmlab.console import say
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.files import write_atomically
from lmlab.runs import Run

NEEDED = ("state_dict", "config", "tokenizer", "corpus_sha256", "global_step")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to disk, with nothing half-written ever at the checkpoint's path."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        # Into memory first: a full disk then is an ordinary error of an ordinary write.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomically(Path(path), content.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        return read(Path(path))


def read(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, on the CPU.

    Raises:
        LabError: if a byte of it is damaged, or it holds anything but plain data and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums it wrote
        if damaged is not None:
            raise LabError(f"checkpoint {path} is damaged ({damaged} in it does not check)")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LabError(f"checkpoint {path} is refused: loading it would run code in it") from error
    except (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise LabError(f"checkpoint {path} is damaged or cut off") from error
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in NEEDED):
        raise LabError(f"checkpoint {path} was not written by lmlab: it lacks {', '.join(NEEDED)}")
    return checkpoint


def newest_whole(run: Run) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that can be read, and what it holds; None if it has none.

    Damaged ones are reported and passed over.

    Raises:
        LabError: if there are checkpoints and none is whole.
    """
    paths = run.checkpoints()
    problems = []
    for path in paths:
        try:
            found = path, read(path)
        except LabError as error:
            problems.append(str(error))
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


def restore(run: Run, which: str) -> Trained:
    """The model of a run's checkpoint: `last`, `best`, or one given by path; in eval mode.

    Raises:
        LabError: if there is none, or it cannot be used.
    """
    found = newest_whole(run) if which == "last" else None
    if found is None:
        path = run.checkpoint(which)
        found = path, read(path)
    path, checkpoint = found
    config = check_plain(with_todays_defaults(checkpoint["config"]), schema.Train)
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
    corpus_sha256, step = checkpoint["corpus_sha256"], checkpoint["global_step"]
    return Trained(config, tokenizer, model.eval(), corpus_sha256, step, path)
