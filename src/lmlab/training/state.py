"""Checkpoints: plain data, written atomically, loaded without running any code in them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from lmlab import build, schema
from lmlab.config import check_plain
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.files import atomic_file
from lmlab.runs import Run


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to disk, with nothing half-written ever at the checkpoint's path."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        with atomic_file(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: Any = True
    ) -> Any:
        return read(Path(path))


def read(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, on the CPU.

    Raises:
        LabError: if it is damaged, or holds anything but plain containers and tensors.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LabError(
            f"checkpoint {path} is refused: it is damaged, or would run code when loaded"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise LabError(f"checkpoint {path} cannot be read: it is damaged or cut off") from error
    needed = ("state_dict", "config", "tokenizer", "global_step")
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in needed):
        raise LabError(f"checkpoint {path} was not written by lmlab: it lacks {', '.join(needed)}")
    return checkpoint


@dataclass(frozen=True)
class Trained:
    """A model as a checkpoint holds it, and what it needs to be used."""

    config: dict[str, Any]
    tokenizer: Tokenizer
    model: nn.Module
    step: int
    path: Path


def restore(run: Run, which: str) -> Trained:
    """The model of a run's checkpoint `last` or `best`, or of one given by path; in eval mode.

    Raises:
        LabError: if there is none, or it cannot be used.
    """
    path = run.checkpoint(which)
    checkpoint = read(path)
    config = check_plain(checkpoint["config"], schema.Train)
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
        raise LabError(f"checkpoint {path} does not fit its own config: {error}") from error
    return Trained(config, tokenizer, model.eval(), checkpoint["global_step"], path)
