"""Tasks asked while a model is trained."""

from __future__ import annotations

from typing import Any

import lightning as L

from lmlab.data.tokenizer import Tokenizer
from lmlab.tasks.asked import Items, answers_to, metrics_of
from lmlab.training.callbacks import module_data, within_training


class AskTasks(L.Callback):
    """`tasks/<task>/<score>` at every `every`-th evaluation (0: never), and at the end.

    It draws no random numbers and asks the weights as they are, in their own precision, so a run
    comes to the same weights with tasks as without. Of several processes the first one asks.
    """

    def __init__(
        self, items: Items, tokenizer: Tokenizer, stride: int, every: int, last: int | None = None
    ):
        """`stride` is that of the full pass, for texts that are longer than block_size. Where no
        such pass comes behind training, `last` is the step at which it ends."""
        self.items, self.tokenizer, self.stride, self.every = items, tokenizer, stride, every
        self.last = last
        self._asked_at: int | None = None  # step

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or step == self._asked_at:
            return
        if trainer.sanity_checking or within_training(trainer):
            evaluation = step // module_data(trainer).eval_every
            if step != self.last and (not self.every or evaluation % self.every):
                return
        self._asked_at = step
        metrics = metrics_of(answers_to(self.items, module.model, self.tokenizer, self.stride))
        module.metrics |= metrics
        module.write(metrics, step)
