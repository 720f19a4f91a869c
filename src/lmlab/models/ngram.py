"""The n-gram count model: how far counting alone goes, before anything is trained.

There is a count table for each order, and each order interpolates between its own counts and the
order below it. In a context h that was followed by `total` tokens of `types` different kinds,

    p(w | h)  =  (count(h w) + types * p(w | h without its oldest token)) / (total + types)

so a context that goes on in many different ways leans on the shorter context, and one that always
goes on in the same way trusts itself (Witten and Bell 1991, method C, in the interpolated form of
Chen and Goodman 1999). Below order 1 stands the uniform distribution, so no probability is zero. A
context never seen is the order below it.

The lower orders do not count how often a gram occurs but after how many different tokens, because
they are asked only where the longer context knows little: "Francisco" is frequent, but only after
"San" (Kneser and Ney 1995). On tinyshakespeare this is worth 0.10 nats per character at order 5 and
0.14 at order 6. Where the window itself offers no longer context, the plain count is the right one
(Heafield et al. 2013 do the same at the start of a sentence). There is nothing to tune. Modified
Kneser-Ney discounts estimated from the counts would gain 0.007 more at order 5 and 0.034 at order
6, and lose at orders 2 to 4, at the price of three discounts an order and their special cases.

Sources: Witten and Bell, "The zero-frequency problem", IEEE Trans. Inf. Theory 37(4), 1991. Kneser
and Ney, "Improved backing-off for m-gram language modeling", ICASSP 1995. Chen and Goodman, "An
empirical study of smoothing techniques for language modeling", Computer Speech & Language 13, 1999.
Heafield et al., "Scalable modified Kneser-Ney language model estimation", ACL 2013.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from lmlab.errors import LabError
from lmlab.models.memory import Past

ORDERS = range(1, 9)
Order = Annotated[int, Field(ge=1, le=8)]
CHUNK = 1 << 20  # positions numbered at a time while fitting: it bounds memory, not the result


class CountTable(nn.Module):
    """The grams of one order, k tokens each, and their counts; empty until it is filled.

    A gram's id is its place in the table. Its key is (id of its first k-1 tokens in the table of
    the order below) * vocab_size + (its last token): k tokens in one int64, whatever k is. Keys are
    sorted, so a search finds a gram, and all the grams of one context stand side by side.
    """

    keys: torch.Tensor  # (n,)
    counts: torch.Tensor  # (n,) occurrences
    adjusted: torch.Tensor  # (n,) different tokens seen before; in the highest order, occurrences

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        empty = torch.empty(0, dtype=torch.int64)
        for name in ("keys", "counts", "adjusted"):
            self.register_buffer(name, empty.clone())

    def fill(self, keys: np.ndarray, counts: np.ndarray, adjusted: np.ndarray) -> None:
        """Take over the three columns, each (n,), with keys ascending."""
        for name, column in (("keys", keys), ("counts", counts), ("adjusted", adjusted)):
            setattr(self, name, torch.from_numpy(column).to(self.keys.device))

    def find(self, keys: torch.Tensor) -> torch.Tensor:
        """The ids of the grams with these keys, of the same shape; -1 for a gram not seen."""
        ids = torch.searchsorted(self.keys, keys)
        return torch.where(torch.searchsorted(self.keys, keys, right=True) > ids, ids, -1)

    def rows(
        self, values: torch.Tensor, contexts: torch.Tensor, columns: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What each context has in `values`, a column of this table, for each next token.

        contexts holds ids from the order below, of any shape (...); the result is (..., vocab_size)
        in float32. The context -1 has a row of zeros. `values` may be several columns (F, n), and
        `columns` (...) say which one is asked for each context.
        """
        several = values if values.dim() == 2 else values[None]
        asked = contexts if columns is None else contexts * len(several) + columns
        # Many positions share a context: spread each row out once.
        distinct, which = torch.unique(asked, return_inverse=True)
        context = distinct if columns is None else distinct.div(len(several), rounding_mode="floor")
        start = torch.searchsorted(self.keys, context * self.vocab_size)
        length = torch.searchsorted(self.keys, (context + 1) * self.vocab_size) - start
        row = torch.repeat_interleave(length)
        # The place of each entry in the table: its row's start, and its place within the row.
        place = torch.arange(len(row), device=row.device) - (length.cumsum(0) - length)[row]
        entry = start[row] + place
        column = 0 if columns is None else distinct[row] % len(several)
        rows = values.new_zeros((len(distinct), self.vocab_size), dtype=torch.float32)
        rows[row, self.keys[entry] % self.vocab_size] = several[column, entry].float()
        return rows[which]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # Sizes depend on the corpus a table was fitted on: make room before torch compares shapes.
        columns = {name: state_dict.get(prefix + name) for name in ("keys", "counts", "adjusted")}
        for name, column in columns.items():
            if column is not None:
                setattr(self, name, self.keys.new_empty(column.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        sizes = {tuple(column.shape) for column in columns.values() if column is not None}
        ascending = self.keys.dim() == 1 and bool((self.keys.diff() > 0).all())
        if sizes != {(len(self.keys),)} or not ascending:
            errors: list[str] = args[-1]  # of the whole model, which torch raises
            errors.append(f"{prefix}keys, counts and adjusted are no table of grams")


class NGram(nn.Module):
    """Predicts a token from the order - 1 tokens before it, by counting (order 1: unigram).

    It has buffers but no parameters: `fit` counts a corpus, nothing is trained. Until then every
    table is empty and the model is the uniform distribution, with a loss of ln(vocab_size).

    A context never exceeds block_size tokens, as in every model here, so an order above
    block_size + 1 is taken as block_size + 1; `order` says which it became.

    Raises LabError when order is not 1 to 8.
    """

    past: Past | None = None  # the tokens themselves
    uniform: torch.Tensor  # (vocab_size,)
    tables: Sequence[CountTable]  # an nn.ModuleList, for orders 1 to `order`

    def __init__(self, vocab_size: int, block_size: int, order: Order = 5) -> None:
        super().__init__()
        if order not in ORDERS:
            raise LabError(
                f"model.order={order} is not an n-gram order: "
                f"give a whole number from {ORDERS[0]} (unigram) to {ORDERS[-1]}"
            )
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.order = min(order, block_size + 1)
        self.sees = max(1, self.order - 1)  # how many of the last tokens decide the next
        self.register_buffer("uniform", torch.full((vocab_size,), 1 / vocab_size))
        tables = nn.ModuleList(CountTable(vocab_size) for _ in range(self.order))
        self.register_module("tables", tables)

    def fit(self, tokens: torch.Tensor | np.ndarray) -> None:
        """Count a corpus, in place of whatever was counted before.

        tokens is one-dimensional, of any integer type, and may be a memory map. Takes some
        25 bytes of memory a token. Raises LabError for an id outside the vocabulary.
        """
        below, of_orders = None, grams_of(tokens, self.vocab_size, self.order)
        for table, grams in zip(self.tables, of_orders, strict=True):
            self.take(table, below, grams)
            below = table

    def take(self, table: CountTable, below: CountTable | None, grams: Grams) -> None:
        """Fill the table of the next order; `below` is that of the order before it."""
        table.fill(grams.keys, grams.counts, grams.counts.copy())
        if below is not None:
            # Each distinct gram is one different token before its suffix.
            adjusted = np.bincount(grams.suffix, minlength=len(below.keys))
            below.adjusted = torch.from_numpy(adjusted).to(below.keys.device)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        """idx (B, T) int64 -> log-probabilities of each next token (B, T, vocab_size), in nats.

        Row t sees idx[:, : t + 1] and no more than its last order - 1 tokens; at the start of a
        window the lower orders answer. The softmax of the result is the distribution itself.
        """
        T = idx.shape[1]
        if idx.is_meta:  # shapes alone: there is nothing to look up
            return self.uniform.log().expand(*idx.shape, -1)
        if self.past is not None:
            (tokens,) = self.past.extend(idx[..., None], reach=self.sees)
            idx = tokens[..., 0]
        values = [(table.counts, table.adjusted) for table in self.tables]
        return self.interpolate(idx, values)[:, -T:]

    def interpolate(
        self,
        idx: torch.Tensor,
        values: Sequence[tuple[torch.Tensor, torch.Tensor]],
        columns: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The same from other counts and adjusted counts of the same grams, of each order a pair.

        They may be several columns (F, n) each; `columns` (B, T + 1) say which is asked for idx and
        for the token after it.
        """
        B, T = idx.shape
        # probs[:, t]: what follows the first t tokens. t = 0 is dropped at the end.
        probs = self.uniform.repeat(B, T + 1, 1)  # (B, T + 1, V)
        # The id of the k - 1 tokens before each t >= k - 1; at first, of no tokens.
        context = torch.zeros((B, T + 1), dtype=torch.int64, device=idx.device)
        for k, (table, (counts, adjusted)) in enumerate(zip(self.tables, values, strict=True), 1):
            which = None if columns is None else columns[:, k - 1 :]
            rows = table.rows(adjusted, context, which)  # (B, T + 2 - k, V)
            # The first is a context of all the window holds: no longer one has been asked.
            first = None if which is None else which[:, :1]
            rows[:, :1] = table.rows(counts, context[:, :1], first)
            total = rows.sum(-1, keepdim=True)
            # A context that was not seen (total 0) leaves all to the order below.
            types = (rows > 0).sum(-1, keepdim=True).clamp(min=1)
            # (counts + types * probs) / (total + types), in place.
            probs[:, k - 1 :].mul_(types).add_(rows).div_(total + types)
            # One token longer: the context one position earlier, and the token since.
            context = table.find(context[:, :-1] * self.vocab_size + idx[:, k - 1 :])
        return probs[:, 1:].log()


@dataclass(frozen=True)
class Grams:
    """The grams of one order, as they stand in a text."""

    ids: np.ndarray  # (positions,): of the gram that starts there; the next order overwrites it
    keys: np.ndarray  # (n,) ascending
    counts: np.ndarray  # (n,)
    suffix: np.ndarray  # (n,): the id, one order below, of all but its first token


def grams_of(tokens: torch.Tensor | np.ndarray, vocab_size: int, order: int) -> Iterator[Grams]:
    """The grams of a text (n,), of each order from 1 on.

    Raises:
        LabError: for an id outside the vocabulary.
    """
    if isinstance(tokens, torch.Tensor):
        tokens = tokens.cpu().numpy()
    if len(tokens) and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise LabError(
            f"model.vocab_size={vocab_size} does not cover the corpus, whose ids run from "
            f"{tokens.min()} to {tokens.max()}: give at least {int(tokens.max()) + 1}"
        )
    # ids[i]: the id of the gram that starts at position i. Before the first order it is the empty
    # gram everywhere. Each order makes it one token longer, in place.
    ids = np.zeros(len(tokens), dtype=np.int64)
    below = suffix = np.zeros(1, dtype=np.int64)
    for k in range(1, order + 1):
        ids = ids[: len(tokens[k - 1 :])]
        ids *= vocab_size
        ids += tokens[k - 1 :].astype(np.int64)
        keys, counts = np.unique(ids, return_counts=True)
        for i in range(0, len(ids), CHUNK):
            ids[i : i + CHUNK] = np.searchsorted(keys, ids[i : i + CHUNK])
        if k == 1:
            suffix = np.zeros(len(keys), dtype=np.int64)  # the empty gram
        else:  # a gram's suffix is its prefix's suffix and the same last token
            prefix, last = np.divmod(keys, vocab_size)
            suffix = np.searchsorted(below, suffix[prefix] * vocab_size + last)
        yield Grams(ids, keys, counts, suffix)
        below = keys
