"""Learning to say several tokens ahead, by heads that are thrown away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from lmlab.bounds import Count, NotNegative
from lmlab.errors import LabError
from lmlab.models.contract import Hooks
from lmlab.training.loss import CrossEntropy, Loss, Model
from lmlab.training.optimizers.rules import readouts_of

if TYPE_CHECKING:
    from lmlab.data.datamodule import TextDataModule


class TokensAhead(Loss):
    """The cross-entropy, and beside it that of what comes after the next token, so that a state
    says more of the text to come (Gloeckle et al. 2024, arXiv 2404.19737).

    From what the model's read-out is given, a linear head each says the token two ahead, three
    ahead and so on. They are no part of the model: they are kept in checkpoints to go on with, and
    nothing evaluates or exports them. `train/loss` is of the next token.
    """

    def __init__(self, tokens: Count = 1, weight: NotNegative = 0.3):
        """`tokens` besides the next; `weight` times their mean loss is added to its."""
        self.n_tokens, self.weight = tokens, weight
        self.heads: nn.ModuleList | None = None
        self._states: Tensor | None = None  # (B, T, n_embd), of the last forward pass

    def learned_beside(self, model: nn.Module) -> nn.Module:
        """
        Raises:
            LabError: if the model has no one linear read-out, or reads too few tokens.
        """
        weights = readouts_of(model)
        linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight in weights]
        if len(linear) != 1:
            raise LabError(
                f"loss: TokensAhead adds heads to a linear read-out, and {type(model).__name__} "
                f"has {len(linear) or 'none'}; choose a model that has one, such as gpt or modern"
            )
        block_size = Hooks.of(model).block_size
        if block_size is not None and self.n_tokens >= block_size:
            raise LabError(
                f"loss.tokens={self.n_tokens}: give less than data.block_size={block_size}"
            )
        (readout,) = linear
        readout.register_forward_pre_hook(self._note)
        sizes = readout.in_features, readout.out_features
        self.heads = nn.ModuleList(
            skip_init(nn.Linear, *sizes, bias=False) for _ in range(self.n_tokens)
        )
        for weight in self.heads.parameters():
            nn.init.zeros_(weight)  # nothing is drawn
        return self.heads

    def _note(self, readout: nn.Module, args: tuple[Any, ...]) -> None:
        if readout.training:
            self._states = args[0]

    def __call__(self, model: Model, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        loss = CrossEntropy()(model, idx, targets)
        states, self._states = self._states, None
        assert states is not None
        assert self.heads is not None, "learned_beside comes first"
        states = states.reshape(*targets.shape, -1)  # it may have read shorter pieces
        ahead = [
            F.cross_entropy(head(states[:, :-k]).flatten(0, 1).float(), targets[:, k:].flatten())
            for k, head in enumerate(self.heads, 1)
        ]
        return loss + self.weight * sum(ahead) / self.n_tokens, loss

    def flops_per_token(self, data: TextDataModule) -> float | None:
        assert self.heads is not None
        return 6.0 * sum(p.numel() for p in self.heads.parameters())
