"""Pictures of what a model has learnt: where it looks, and which token it expects after which."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lmlab.bounds import Count, CountOrZero
from lmlab.data.ids import Ids
from lmlab.data.tokenizer import Tokenizer
from lmlab.display.loggers import event_files
from lmlab.models.contract import Hooks, pictured_as
from lmlab.models.inside.torch_inside import in_eval_mode
from lmlab.models.maps import attention_maps

if TYPE_CHECKING:
    from PIL.Image import Image

    from lmlab.display.heatmaps import HeatMaps


CHUNK = 1 << 20  # tokens counted at a time: it bounds memory, not the result


class Pictures(L.Callback):
    """Draws into TensorBoard at evaluations.

    A model whose layers can be watched (`models.maps`) gets a picture of where each head looks in
    one passage, the first tokens of val; a model with `next_token_logits()` one of that table,
    beside how often the train split has each pair. Others have none. No random numbers are drawn.
    """

    def __init__(
        self, tokenizer: Tokenizer, every: CountOrZero = 1, tokens: Count = 32, pairs: Count = 65
    ):
        """A picture at each `every`-th evaluation and at the end (0: never) of the first `tokens`
        tokens of val; tables show the `pairs` most frequent tokens, if there are more."""
        self.tokenizer, self.every, self.tokens, self.pairs = tokenizer, every, tokens, pairs
        self._truth: tuple[Tensor, np.ndarray] | None = None

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if not self.every or "val/loss" not in module.metrics or not trainer.is_global_zero:
            return
        data, step = trainer.datamodule, trainer.global_step  # type: ignore[attr-defined]
        if trainer.sanity_checking:  # before the first step
            return
        is_between = trainer.state.fn == "fit" and step < module.max_steps
        if is_between and step // data.eval_every % self.every:
            return
        for logger in event_files(trainer.loggers):
            for tag, picture in self.draw(module, data).items():
                logger.log_image(tag, picture, step)

    def draw(self, module: Any, data: Any) -> dict[str, Image]:
        """The pictures of a model as it is, by tag."""
        with in_eval_mode(module.model):
            passage = data.val_tokens[: min(self.tokens, data.block_size)].whole()
            pictures = self._maps(module, passage)
            if (table := Hooks.of(module.model).next_token_logits) is not None:
                pictures["view/bigram"] = self._table(table(), data.train_tokens)
        return pictures

    def _maps(self, module: Any, passage: Tensor) -> dict[str, Image]:
        maps = attention_maps(module.model, passage.long().to(module.device))
        pictures = {}
        for n, (name, weights) in enumerate(maps.items(), 1):
            layer = module.model.get_submodule(name)
            n_head, labels = len(weights), self._labels(passage)
            titles = tuple(f"head {h}" for h in range(1, n_head + 1)) if n_head > 1 else ("",)
            maps_of_layer = canvas(labels, labels, titles, "how much it takes from each token")
            tag = f"view/{pictured_as(layer)}/layer_{n}"
            future = torch.ones(weights.shape[1:], dtype=torch.bool).triu(1)
            seen = weights.cpu().masked_fill(future, torch.nan)
            pictures[tag] = maps_of_layer.draw(seen.numpy())
        return pictures

    def _table(self, logits: Tensor, train_tokens: Ids) -> Image:
        """P(next token | token) by logits (vocab_size, vocab_size), beside how often the train
        split has each pair."""
        if self._truth is None:
            self._truth = frequencies(train_tokens, len(logits), self.pairs)
        shown, truth = self._truth
        labels = self._labels(shown)
        titles = ("the model's table, softmax of each row", "frequencies in the train split")
        rows = logits.detach().float().cpu()[shown]
        table = rows.softmax(-1)[:, shown].numpy()
        return canvas(labels, labels, titles, "next token").draw(np.stack([table, truth]))

    def _labels(self, ids: Tensor) -> tuple[str, ...]:
        return tuple(self.tokenizer.decode([token]) for token in ids.tolist())


@functools.lru_cache(maxsize=32)
def canvas(
    rows: tuple[str, ...], columns: tuple[str, ...], titles: tuple[str, ...], across: str
) -> HeatMaps:
    """Axes and labels, which take matplotlib long: drawn once for all pictures and runs alike."""
    from lmlab.display.heatmaps import HeatMaps  # matplotlib: only once something is drawn

    return HeatMaps(rows, columns, titles, across)


def frequencies(tokens: Ids, vocab_size: int, most: int) -> tuple[Tensor, np.ndarray]:
    """The `most` most frequent of all tokens, (n,) ascending, and how often each is followed by
    each: (n, n), rows of the full table of relative frequencies."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for start in range(0, len(tokens), CHUNK):
        part = tokens[start : start + CHUNK].whole()
        counts += torch.bincount(part.long(), minlength=vocab_size)
    shown = counts.topk(min(most, vocab_size)).indices.sort().values
    place = torch.full((vocab_size,), len(shown))
    place[shown] = torch.arange(len(shown))
    size = len(shown) + 1  # a last row and column for all that are not shown
    table = torch.zeros(size * size, dtype=torch.int64)
    for start in range(0, len(tokens) - 1, CHUNK):
        part = place[tokens[start : start + CHUNK + 1].whole().long()]  # the last pair reaches over
        table += torch.bincount(part[:-1] * size + part[1:], minlength=size * size)
    table = table.view(size, size).double()
    table = table / table.sum(1, keepdim=True).clamp(min=1)
    return shown, table[:-1, :-1].numpy()
