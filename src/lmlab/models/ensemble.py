"""Several models that answer together."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from lmlab.bounds import Given, Positive
from lmlab.errors import LabError
from lmlab.models.contract import Hooks

# Called with vocab_size=… and block_size=…, it makes a model.
Member = Annotated[Callable[..., nn.Module], Given("vocab_size", "block_size")]


class Ensemble(nn.Module):
    """A mean of the probabilities that its members give (Hansen and Salamon 1990, IEEE Transactions
    on Pattern Analysis and Machine Intelligence 12(10)), by `weights` if they are not alike.

    Networks differ in their first weights and in what they read: in training, each takes its share
    of the windows of a batch, and learns from it as it would alone with so many windows. (The norm
    of gradients is that of all together, where it is clipped.) A member that counts, such as an
    NGram, does so before the first step, and takes no windows.
    """

    positionwise = True  # but for its members

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        members: dict[str, Member],
        weights: dict[str, Positive] | None = None,
    ):
        """`weights` are of all members by name, and need not add up to 1; None: all alike.

        Raises:
            LabError: if there is no member, or if weights are of others than the members.
        """
        super().__init__()
        self.vocab_size, self.block_size = vocab_size, block_size
        self.members = nn.ModuleDict(
            {
                name: make(vocab_size=vocab_size, block_size=block_size)
                for name, make in members.items()
            }
        )
        weights = dict.fromkeys(members, 1.0) if weights is None else weights
        if not members or weights.keys() != members.keys():
            raise LabError(
                f"model.weights: give one for each of model.members, which are "
                f"{', '.join(members) or 'none'}"
            )
        self.weights = {name: weights[name] / sum(weights.values()) for name in members}
        self.learners = [
            name
            for name, member in self.members.items()
            if any(p.requires_grad for p in member.parameters())
        ]
        self.endless = all(Hooks.of(m).endless for m in self.members.values())

    def prepare(self, train_tokens: Tensor) -> None:
        """Show the train split to members that look at it or count it."""
        for member in self.members.values():
            hooks = Hooks.of(member)
            look = hooks.prepare or hooks.fit
            if look is not None:
                look(train_tokens)

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) -> log-probabilities (B, T, vocab_size) in nats; in training, the logits that
        each network has for its windows, in their order."""
        if self.training and self.learners:
            return self._each_its_own(idx)
        log_probs = [
            self.members[name](idx).float().log_softmax(-1) + math.log(weight)
            for name, weight in self.weights.items()
        ]
        return torch.stack(log_probs).logsumexp(0)

    def _each_its_own(self, idx: Tensor) -> Tensor:
        n_windows, n = len(idx), len(self.learners)
        if n_windows < n:
            raise LabError(f"data.batch_size={n_windows} has no window for each of {n} networks")
        of_networks = []
        for name, windows in zip(self.learners, idx.tensor_split(n), strict=True):
            logits = self.members[name](windows)
            if logits.requires_grad:  # the loss is a mean over all windows: undo that
                logits.register_hook(partial(torch.mul, other=n_windows / len(windows)))
            of_networks.append(logits)
        return torch.cat(of_networks)


def ensemble_of(
    models: Sequence[nn.Module], weights: Sequence[float] | None, vocab_size: int, block_size: int
) -> Ensemble:
    """An ensemble of models that are there already, with a weight for each; None: all alike."""
    names = [str(i) for i in range(len(models))]
    given = None if weights is None else dict(zip(names, weights, strict=True))
    members: dict[str, Member] = {
        name: lambda model=model, **_: model for name, model in zip(names, models, strict=True)
    }
    return Ensemble(vocab_size, block_size, members, given)
