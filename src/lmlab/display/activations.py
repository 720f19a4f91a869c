"""How large a model's activations are: a curve for each module, and for the logits."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lmlab.bounds import Count, CountOrZero
from lmlab.models.inside.torch_inside import in_eval_mode, uncompiled

TAG = "activations/"
LOGITS = "logits"
DEEPEST = 3  # parts of a module's name: blocks.0.attention is measured, what is inside is not


class Activations(L.Callback):
    """Logs the mean absolute value of what each module gives, on the first passages of val.

    It is there before the first step, too, as step 0. With a model of every width it is the
    coordinate check of muP (sweep=coordinates): after a few steps activations have the same size at
    every width, or they have not. No random numbers are drawn.
    """

    def __init__(self, every: CountOrZero = 0, passages: Count = 4):
        """At each `every`-th evaluation (0: never), of `passages` of block_size tokens."""
        self.every, self.passages = every, passages

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        if self.every and trainer.global_step == 0:
            self._log(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        between = self.every * trainer.datamodule.eval_every  # type: ignore[attr-defined]
        if between and trainer.global_step and trainer.global_step % between == 0:
            self._log(trainer, module)

    def _log(self, trainer: L.Trainer, module: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        tokens = data.val_tokens[: self.passages * data.block_size].whole()
        n = max(1, len(tokens) // data.block_size)
        idx = tokens[: n * data.block_size].view(n, -1).long().to(module.device)
        sizes = mean_sizes(module.model, idx)
        module.write({f"{TAG}{name}": size for name, size in sizes.items()}, trainer.global_step)


@torch.no_grad()
def mean_sizes(model: nn.Module, idx: Tensor) -> dict[str, float]:
    """The mean absolute value of each module's output for idx (B, T), by its name.

    LOGITS are the model's own. A module that gives no tensor is left out.
    """
    sizes: dict[str, Tensor] = {}

    def measure(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                sizes[name] = output.float().abs().mean()

        return hook

    hooks = [
        module.register_forward_hook(measure(name))
        for name, module in model.named_modules()
        if name and name.count(".") < DEEPEST
    ]
    try:
        with in_eval_mode(model):
            logits = uncompiled(model)(idx)
    finally:
        for hook in hooks:
            hook.remove()
    sizes[LOGITS] = logits.float().abs().mean()
    return {name: size.item() for name, size in sizes.items()}
