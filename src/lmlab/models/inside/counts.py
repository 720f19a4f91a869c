"""Counts for a network to start from: what text they are of is left out while it is learned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lmlab.bounds import Count
from lmlab.models.memory import Past
from lmlab.models.ngram import CountTable, Grams, NGram, Order

MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)  # odd, of random bits: 2^64 / golden ratio


class CrossFitted(NGram):
    """An `NGram` that does not look up what it is asked to predict while others learn from it.

    Counts know by heart the text that they were made of. A network that is trained on top of them
    would learn to trust them, and then meet a text that they do not know. So in training a position
    is given the counts of all the text but its own part, of `n_folds` contiguous ones (stacked
    generalisation, Wolpert 1992, Neural Networks 5(2)). Leaving out the position alone would not
    do: names and turns of phrase come back within a scene. With 10 parts of tinyshakespeare and
    order 6 the loss of the counts is 1.48 in training and 1.57 on the val split; by all of them it
    would be 1.07 in training.

    Which part a window is of, the model finds out by itself: windows of the text are remembered by
    a hash. A window of another text is given all counts, and so is everything in evaluation.
    """

    past: Past | None = None  # as an NGram's

    def __init__(self, vocab_size: int, block_size: int, order: Order, n_folds: Count = 10):
        super().__init__(vocab_size, block_size, order)
        self.n_folds, self.n_tokens = n_folds, 0
        # A row for each part that is left out, and a last one for the whole text. None of these is
        # kept in a checkpoint: they follow from the text.
        for k in range(1, self.order + 1):
            for name in ("counts", "adjusted"):
                empty = torch.empty(n_folds + 1, 0, dtype=torch.int32)
                self.register_buffer(f"{name}_without_{k}", empty, persistent=False)
        for name in ("hashes", "starts"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int64), persistent=False)
        self.hashes: Tensor  # (n,) ascending, of the windows of the text
        self.starts: Tensor  # (n,): where they start
        self._order = 0

    def fit(self, tokens: Tensor | np.ndarray) -> None:
        """Count a corpus, whole and without each of its parts; see `NGram.fit`."""
        self.n_tokens = len(tokens)
        self._fold = np.arange(len(tokens)) * self.n_folds // max(1, len(tokens))
        self._order = 0
        super().fit(tokens)
        del self._fold
        # The largest power of two within a block: each doubling of a hash is one step.
        self.n_hashed = 1 << (self.block_size.bit_length() - 1)
        ids = torch.as_tensor(np.asarray(tokens, dtype=np.int64), device=self.hashes.device)
        self.hashes, self.starts = hashed(ids, self.n_hashed).sort(stable=True)

    def take(self, table: CountTable, below: CountTable | None, grams: Grams) -> None:
        super().take(table, below, grams)
        self._order += 1
        # A gram is of the part in which it ends.
        n, fold = len(grams.keys), self._fold[self._order - 1 :]
        within = np.bincount(fold * n + grams.ids, minlength=(self.n_folds + 1) * n)
        counts = grams.counts - within.reshape(-1, n)
        self._set("counts", self._order, counts)
        self._set("adjusted", self._order, counts)
        if below is not None:
            n_below = len(below.keys)
            adjusted = [np.bincount(grams.suffix[row > 0], minlength=n_below) for row in counts]
            self._set("adjusted", self._order - 1, np.stack(adjusted))

    def _set(self, name: str, order: int, values: np.ndarray) -> None:
        column = torch.from_numpy(values.astype(np.int32)).to(self.hashes.device)
        setattr(self, f"{name}_without_{order}", column)

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) int64 -> log-probabilities of each next token (B, T, vocab_size), in nats."""
        T = idx.shape[1]
        looks_up_all = self.past is not None or not self.training or not len(self.hashes)
        if looks_up_all or self.n_hashed > T or idx.is_meta:
            return super().forward(idx)
        start = self.find(idx)[:, None]
        places = start + torch.arange(T + 1, device=idx.device)  # of idx and the token after it
        fold = (places * self.n_folds).div(self.n_tokens, rounding_mode="floor")
        fold = fold.clamp(max=self.n_folds - 1).where(start >= 0, self.n_folds)
        values = [
            (getattr(self, f"counts_without_{k}"), getattr(self, f"adjusted_without_{k}"))
            for k in range(1, self.order + 1)
        ]
        return self.interpolate(idx, values, fold)

    def find(self, idx: Tensor) -> Tensor:
        """idx (B, T) -> where in the text each window starts (B,); -1 where it is not of it."""
        wanted = hashed(idx[:, : self.n_hashed], self.n_hashed)[:, 0]
        place = torch.searchsorted(self.hashes, wanted).clamp(max=len(self.hashes) - 1)
        return torch.where(self.hashes[place] == wanted, self.starts[place], -1)


def hashed(idx: Tensor, n: int) -> Tensor:
    """Hashes of all runs of n tokens, n a power of two: (..., T) -> int64 (..., T - n + 1).

    The hash of two halves a b is hash(a) * m + hash(b), modulo 2^64.
    """
    hashes, half, multiplier = idx + 1, 1, MULTIPLIER
    while half < n:
        hashes = hashes[..., :-half] * multiplier + hashes[..., half:]
        half, multiplier = 2 * half, _signed(multiplier * multiplier)
    return hashes


def _signed(number: int) -> int:
    """A number as int64 holds it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


class Counts(nn.Module):
    """Log-probabilities of counting, in front of a network and behind it.

    The network is shown them, as a sum of vectors of the tokens weighted by how likely each comes
    next, and what it says is added to them: softmax(f(x) + g(x) log p), where g(x) between 0 and 2
    is how far the counts are to be trusted here. At first f(x) and the vectors are nearly zero and
    g is 1, so it begins where counting ends.
    """

    positionwise = True  # but for its n-grams

    def __init__(self, vocab_size: int, block_size: int, n_embd: int, order: Order, n_folds: Count):
        super().__init__()
        self.ngram = CrossFitted(vocab_size, block_size, order, n_folds)
        self.likely = nn.Embedding(vocab_size, n_embd)
        self.trust = nn.Parameter(torch.zeros(n_embd))

    def embed(self, log_probs: Tensor) -> Tensor:
        """(B, T, vocab_size) -> (B, T, C)."""
        return log_probs.clamp(min=-8) / 4 @ self.likely.weight

    def weighted(self, x: Tensor, log_probs: Tensor) -> Tensor:
        """How much of the counts is added to the logits: x (B, T, C) -> (B, T, vocab_size)."""
        trust = 2 * torch.sigmoid((x * self.trust).sum(-1, keepdim=True).float())
        return trust * log_probs
