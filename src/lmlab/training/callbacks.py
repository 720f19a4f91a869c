"""What is shown and written down while training."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmlab.console import console, say
from lmlab.data.datamodule import TextDataModule
from lmlab.data.tokenizer import Tokenizer
from lmlab.data.windows import get_batch
from lmlab.generation import generate
from lmlab.runs import Run
from lmlab.streams import generator


class Recorder(L.Callback):
    """Keeps run.json up to date at every evaluation."""

    def __init__(self, run: Run):
        self.run = run
        self.metrics: dict[str, float] = {}

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        self.metrics |= module.metrics
        if not math.isnan(module.last_loss):
            self.metrics["train/loss_last"] = module.last_loss
        if trainer.is_global_zero:
            self.run.update(step=trainer.global_step, metrics=self.metrics)


class Bar(L.Callback):
    """Loss, val loss, tokens per second and time left: a bar in a terminal, else a plain line per
    evaluation."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        fields = TextColumn("{task.fields[said]}")
        # A person sees no more than a few changes a second.
        self.progress = Progress(
            *columns, TimeRemainingColumn(), fields, console=console, refresh_per_second=4
        )
        self.task = self.progress.add_task("training", total=None, said="")
        self.val_loss = ""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.progress.update(self.task, total=trainer.max_steps, completed=trainer.global_step)
        if console.is_terminal and trainer.is_global_zero:
            self.progress.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        said = f"loss {module.last_loss:.4f}{self.val_loss} {_rate(module.tokens_per_second)}"
        self.progress.update(self.task, completed=trainer.global_step, said=said)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.state.fn != "fit":
            return
        loss = module.metrics["val/loss"]
        self.val_loss = f" val {loss:.4f}"
        if trainer.is_global_zero:
            width = len(str(trainer.max_steps))
            say(
                f"step {trainer.global_step:>{width}}/{trainer.max_steps}  "
                f"loss {module.last_loss:.4f}  val/loss {loss:.4f}  "
                f"{_rate(module.tokens_per_second)}"
            )

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self.progress.stop()

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        self.progress.stop()


class Sample(L.Callback):
    """Text made at every evaluation, from a stream of random numbers of its own."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        seed: int | None,
        prompt: str = "\n",
        max_new_tokens: int = 200,
        temperature: float = 1.0,
        top_k: int | None = None,
    ):
        """`seed=None` draws from torch's default generator, as the notebook does."""
        self.tokenizer, self.seed, self.prompt = tokenizer, seed, prompt
        self.max_new_tokens, self.temperature, self.top_k = max_new_tokens, temperature, top_k
        self.text = ""

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        self.text = self.make(module)
        for logger in trainer.loggers:
            if isinstance(logger, L.pytorch.loggers.TensorBoardLogger):
                # Markdown: an indented block is shown as it is.
                shown = "\n".join(f"    {line}" for line in self.text.split("\n"))
                logger.experiment.add_text("sample", shown, trainer.global_step)

    def make(self, module: Any) -> str:
        """A sample, prompt not included; the same for the same weights and seed."""
        prompt = self.tokenizer.encode(self.prompt).astype("int64")
        source = None if self.seed is None else generator(self.seed, "sample")
        training = module.training
        module.eval()
        tokens = generate(
            module.model,
            torch.from_numpy(prompt).to(module.device)[None],
            self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            generator=source,
        )
        text = self.tokenizer.decode(int(token) for token in tokens)
        module.train(training)
        return text


class NotebookCells(L.Callback):
    """The notebook's cells between building the model and training it.

    It looks at one batch drawn by a generator of the same seed, and samples a few tokens, which
    moves the one global stream that training goes on with.
    """

    def __init__(self, seed: int, batch_size: int, new_tokens: int):
        self.seed, self.batch_size, self.new_tokens = seed, batch_size, new_tokens

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        data: TextDataModule = trainer.datamodule  # type: ignore[attr-defined]
        source = torch.Generator().manual_seed(self.seed)
        idx, targets = get_batch(data.train_tokens, self.batch_size, data.block_size, source)
        with torch.no_grad():
            logits = module.model(idx)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        say(f"before training: loss {loss.item():.4f} on one batch {tuple(idx.shape)}")
        for _ in generate(module.model, torch.zeros(1, 1, dtype=torch.long), self.new_tokens):
            pass

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        say(f"step {trainer.global_step}: loss {module.last_loss:.4f} on its own batch")


def _rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:,.0f} tokens/s"
