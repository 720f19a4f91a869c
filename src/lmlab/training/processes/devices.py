"""Where, and in which precision, is computed what is not trained: without Lightning, if it can."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lmlab.training.beginning.restored import DOUBLE
from lmlab.training.processes.processes import checked_trainer


def device_of(accelerator: str) -> torch.device:
    """The device that `accelerator` means. Lightning, which takes long to import, is asked only for
    those that torch does not name by itself.

    Raises:
        LabError: with Lightning's own message, if there is no such accelerator here.
    """
    if accelerator == "cpu":
        return torch.device("cpu")
    if accelerator == "auto":
        here = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if here is None else here
    show_nothing = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    settings = dict.fromkeys(show_nothing, False)
    trainer = checked_trainer("", accelerator=accelerator, devices=1, logger=False, **settings)
    return trainer.strategy.root_device


@contextmanager
def computed_in(precision: str) -> Iterator[None]:
    """Within, tensors are made in float64 if that is the precision, as Lightning does it."""
    before = torch.get_default_dtype()
    try:
        if precision == DOUBLE:
            torch.set_default_dtype(torch.float64)
        yield
    finally:
        torch.set_default_dtype(before)
