"""What the contestants train: a config, and from it the same parameters and the same batches."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lmlab.config import build
from lmlab.config.schema import Train
from lmlab.console import console
from lmlab.core.experiment import make_data
from lmlab.data.streams import derive, generator
from lmlab.data.tokens import text_of
from lmlab.training.optimizers.configure import configure

NOTEBOOK = ["data.batch_size=32", "data.block_size=8", "optimizer.lr=1e-3"]
NANOGPT = ["data.batch_size=12", "data.block_size=64", "optimizer.lr=1e-3"]
NANOGPT += ["optimizer.betas=[0.9,0.99]", "optimizer.weight_decay=0.1"]
NANOGPT += ["trainer.gradient_clip_val=1.0"]
MODELS = {
    "bigram": ["model=bigram", *NOTEBOOK, "data.steps_per_batch=100"],
    "head": ["model=head", *NOTEBOOK, "data.steps_per_batch=25"],
    "gpt": ["model=gpt", *NANOGPT],  # its schedule is left to part 2
}


class Task:
    """An experiment's config, ready to be trained by anybody."""

    def __init__(self, overrides: list[str], folder: Path | None = None):
        """`folder` is for what a contestant keeps."""
        self.config, self.folder = composed(overrides), folder or Path()
        self.text = text_of(self.config)
        self.tokens: Tensor = make_data(self.config, self.text).train_tokens.whole()
        shape = self.config.data
        self.batch_size, self.block_size = shape.batch_size, shape.block_size
        self.clip_norm = self.config.trainer.gradient_clip_val

    def model(self) -> nn.Module:
        """As training initialises it."""
        torch.manual_seed(derive(self.config.seed, "init"))
        return build.model(self.config.model, self.text.tokenizer.vocab_size, self.block_size)

    def optimizer(self, model: nn.Module, fused: bool) -> Optimizer:
        """The config's AdamW; torch's own loop over parameters unless it is to be fused."""
        settings = {
            key: value
            for key, value in self.config.optimizer.items()
            if not key.startswith("_") and key != "fused"
        }
        return configure(model, partial(AdamW, fused=fused, **settings))

    def batches(self) -> torch.Generator:
        """The stream that training windows are drawn from."""
        return generator(self.config.seed, "data")


def composed(overrides: list[str]) -> Train:
    """The config of these overrides, on the CPU, checked."""
    from lmlab.config.check import check
    from lmlab.config.words import compose

    words = ["name=bench", "trainer.accelerator=cpu", *overrides]
    return check(compose.composed("train", words), Train)


@contextlib.contextmanager
def as_a_user_has_it() -> Iterator[Path]:
    """A folder for runs, and a terminal for the progress bar that nobody has to look at."""
    before = os.environ.get("FORCE_COLOR")
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        os.environ["FORCE_COLOR"] = "1"  # rich takes it for a terminal, and draws
        console.file = nowhere
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                yield Path(folder)
        finally:
            console.file = None  # type: ignore[assignment]  # sys.stdout, whatever that is then
            if before is None:
                del os.environ["FORCE_COLOR"]
            else:
                os.environ["FORCE_COLOR"] = before
