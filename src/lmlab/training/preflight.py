"""What only torch and Lightning know about a config, checked before anything is made."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.filesize import decimal
from torch import Tensor, nn

from lmlab.errors import LabError
from lmlab.memory_limit import memory_bytes
from lmlab.training.footprint import check_fits
from lmlab.training.processes.started import is_alone_in_slurm

# The Trainer's settings that a config has, with their defaults.
SETTINGS = {"accelerator": "auto", "devices": "auto", "strategy": "auto", "precision": "32-true"}


def trainer(key: str, **settings: Any) -> L.Trainer:
    """Lightning's Trainer; what it says of settings that do not go together is the user's to know.

    Raises:
        LabError: if they do not, with those that were chosen, under `key`.
    """
    if is_alone_in_slurm(settings):
        settings["plugins"] = [*settings.get("plugins", ()), LightningEnvironment()]
    try:
        return L.Trainer(**settings)
    # TypeError: of devices. ImportError: of a strategy or an accelerator that is not installed.
    except (ValueError, TypeError, ImportError, RuntimeError, MisconfigurationException) as error:
        chosen = [
            f"{name}={settings[name]!r}"
            for name, default in SETTINGS.items()
            if settings.get(name, default) != default
        ]
        said = str(error).splitlines()[0]
        raise LabError(f"{key}{' '.join(chosen)}: {said}") from error


def check(config: dict[str, Any], vocab_size: int) -> None:
    """Whether memory can hold the model and a batch.

    Raises:
        LabError: naming what needs more memory than this machine has.
    """
    has = memory_bytes()
    for needs, what in (*_windows(config), _logits(config, vocab_size)):
        if needs > has:
            raise LabError(
                f"{what} need {decimal(needs)} of memory, and this machine has {decimal(has)}"
            )
    check_fits(config, vocab_size)


def remarks(config: dict[str, Any]) -> list[str]:
    """What may well be meant, and is worth a line all the same."""
    warmup, max_steps = config.schedule.get("warmup_steps", 0), config.trainer.max_steps
    if not isinstance(warmup, int) or not 0 < max_steps <= warmup:
        return []
    return [
        f"schedule.warmup_steps={warmup}: the warm-up does not end within trainer.max_steps="
        f"{max_steps}, so the learning rate never reaches optimizer.lr"
    ]


def check_logits(model: nn.Module, target: str, vocab_size: int, block_size: int) -> None:
    """Whether a model makes logits of ids: one forward, which leaves no trace in random numbers.

    A model on the meta device is not judged by what cannot be computed there.

    Raises:
        LabError: with the shapes that are wanted and found.
    """
    T = min(2, block_size)
    wanted = f"forward(idx (1, {T})) -> logits (1, {T}, {vocab_size}) of floats"
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    model.eval()  # so that no running mean is moved
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), device:
            logits = model.forward(torch.zeros((1, T), dtype=torch.int64))
    except Exception as error:  # whatever somebody's model raises
        if device.type == "meta" and isinstance(error, NotImplementedError):
            return
        said = str(error).splitlines()[0] if str(error) else ""
        raise LabError(f"model: {target} has to do {wanted}; {type(error).__name__}: {said}") from (
            error
        )
    finally:
        for module, mode in modes.items():
            module.training = mode
    if isinstance(logits, Tensor):
        if logits.shape == (1, T, vocab_size) and logits.is_floating_point():
            return
        found = f"{tuple(logits.shape)} of {logits.dtype}"
    else:
        found = f"a {type(logits).__name__}"
    raise LabError(f"model: {target} has to do {wanted}; it returns {found}")


def _windows(config: dict[str, Any]) -> list[tuple[int, str]]:
    """Bytes of the windows that are drawn at once, and the keys that say so."""
    settings, shape, evaluation = config.trainer, config.data, config.eval
    window = 8 * (shape["block_size"] + 1)  # int64
    steps = min(shape["steps_per_batch"], evaluation["every"], settings["max_steps"])
    accumulate, batch_size = settings["accumulate_grad_batches"], shape["batch_size"]
    said = f"data.batch_size={batch_size} data.block_size={shape['block_size']}"
    found = [
        (
            window * batch_size * accumulate * steps,
            f"{said} data.steps_per_batch={shape['steps_per_batch']} "
            f"trainer.accumulate_grad_batches={accumulate}: the windows of {steps} steps",
        )
    ]
    if evaluation["protocol"] == "random":
        needs = window * batch_size * evaluation["iters"]
        found.append((needs, f"{said} eval.iters={evaluation['iters']}: the windows"))
    return found


def _logits(config: dict[str, Any], vocab_size: int) -> tuple[int, str]:
    """Bytes of a batch's logits, if they take 16 bits each, and the keys that say so."""
    shape, trained = config.data, config.trainer.max_steps > 0
    needs = shape["batch_size"] * shape["block_size"] * vocab_size * 2 * trained
    keys = f"data.batch_size={shape['batch_size']} data.block_size={shape['block_size']}"
    return needs, f"{keys}: the logits of a vocabulary of {vocab_size:,}"
