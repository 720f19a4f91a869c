"""What a model writes while it is trained."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from lmlab.bounds import Count, CountOrZero, NotNegative
from lmlab.console import say
from lmlab.data.streams import generator
from lmlab.data.tokenizer import Tokenizer, stream_text
from lmlab.data.windows import get_batch
from lmlab.display.loggers import event_files
from lmlab.errors import LabError
from lmlab.models.inside.torch_inside import in_eval_mode
from lmlab.models.sampling import generate
from lmlab.training.callbacks import of_training
from lmlab.training.ema import EMA


class Sample(L.Callback):
    """Text made at every evaluation, from a stream of random numbers of its own; by averaged
    weights, too, where there are any."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        seed: int | None,
        prompt: str | None = None,
        max_new_tokens: CountOrZero = 200,
        temperature: NotNegative = 1.0,
        top_k: Count | None = None,
    ):
        """`seed=None` draws from torch's default generator, as the notebook does.

        Raises:
            LabError: if the tokenizer does not know the prompt.
        """
        self.tokenizer, self.seed = tokenizer, seed
        try:
            ids = tokenizer.opening() if prompt is None else tokenizer.encode(prompt)
        except LabError as error:
            raise LabError(f"callbacks.sample.prompt={prompt!r}: {error}") from error
        if not len(ids):
            raise LabError("callbacks.sample.prompt is empty: give some text, or null")
        self.prompt = torch.from_numpy(ids.astype("int64"))[None]
        self.max_new_tokens, self.temperature, self.top_k = max_new_tokens, temperature, top_k
        self.text = ""

    def state_dict(self) -> dict[str, Any]:
        return {"text": self.text}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.text = state_dict["text"]

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if not of_training(trainer, module) or not trainer.is_global_zero:
            return
        self.text = self.make(module)
        texts = {"sample": self.text}
        for ema in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(ema, EMA):
                with ema.applied(module.model):
                    texts["sample_ema"] = self.make(module)
        for logger in event_files(trainer.loggers):
            for tag, text in texts.items():
                logger.log_text(tag, text, trainer.global_step)

    def make(self, module: Any) -> str:
        """A sample, prompt not included; the same for the same weights and seed."""
        source = None if self.seed is None else generator(self.seed, "sample")
        device = next(module.model.parameters(), self.prompt).device
        tokens = generate(
            module.model,
            self.prompt.to(device),
            self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            generator=source,
        )
        with in_eval_mode(module.model):
            return "".join(stream_text(self.tokenizer, (int(token) for token in tokens)))


class NotebookCells(L.Callback):
    """The notebook's cells between building the model and training it.

    It looks at one batch drawn by a generator of the same seed, and samples a few tokens, which
    moves the one global stream that training goes on with.
    """

    def __init__(self, batch_size: Count, new_tokens: CountOrZero):
        self.batch_size, self.new_tokens = batch_size, new_tokens

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.global_step:
            return  # resumed: this was done before
        data = trainer.datamodule  # type: ignore[attr-defined]
        source = torch.Generator().manual_seed(module.config.seed)
        idx, targets = get_batch(data.train_tokens, self.batch_size, data.block_size, source)
        with torch.no_grad():
            logits = module.model(idx.to(module.device)).cpu()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        say(f"before training: loss {loss.item():.4f} on one batch {tuple(idx.shape)}")
        prompt = torch.zeros(1, 1, dtype=torch.long, device=module.device)
        for _ in generate(module.model, prompt, self.new_tokens):
            pass

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        say(f"step {trainer.global_step}: loss {module.last_loss:.4f} on its own batch")
