"""`data.order=documents`: windows that begin with documents, several in one where they fit."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmlab.console import count_progress
from lmlab.data.ids import Ids
from lmlab.data.order.order import Counted, Share
from lmlab.data.order.packing import Packing
from lmlab.data.order.permutation import HALF, Permutation, each_epoch, keys_of
from lmlab.data.sources import download
from lmlab.data.streams import derive
from lmlab.data.tokens import TokenizedCorpus
from lmlab.errors import LabError
from lmlab.files import atomic_file

CHUNK = 1 << 24  # ids that are looked at at once
KEPT_FROM = 1 << 26  # ids: looking at so many takes as long as starting Python

Places = NDArray[np.int64]


def pieces_of(text: TokenizedCorpus, block_size: int, cache: Path | None = None) -> Pieces:
    """The documents of a train split, cut for windows. Where the documents of many ids end is found
    once and kept beside the ids.

    Raises:
        LabError: if it has none.
    """
    end_of_text, ends = text.tokenizer.end_of_text, np.empty(0, np.int64)
    if end_of_text is not None and len(text.train) < KEPT_FROM:
        ends = ends_of(text.train, end_of_text)
    elif end_of_text is not None:
        about = [text.sha256, text.tokenizer.stored(), len(text.ids), text.n_train]
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        path = (cache or download.cache_dir()) / "tokens" / f"{key}.ends.npy"
        kept = _kept(path, text.train, end_of_text)
        ends = ends_of(text.train, end_of_text) if kept is None else kept
        if kept is None:
            with suppress(LabError), atomic_file(path, parents=True) as file:  # may be read-only
                np.save(file, ends)
    pieces = Pieces(ends, block_size) if len(ends) else None
    if pieces is None or not pieces.n_documents:
        raise LabError(
            "data.order=documents: the corpus is one long text without documents; give "
            "data.order=epochs, or corpus=file with .jsonl, .parquet or corpus.documents=files"
        )
    return pieces


def ends_of(tokens: Ids, end_of_text: int) -> Places:
    """The places behind the end-of-text ids."""
    ends = [np.empty(0, np.int64)]
    with count_progress("finding documents", len(tokens), "tokens") as advance:
        for first in range(0, len(tokens), CHUNK):
            chunk = tokens[first : first + CHUNK].whole()
            ends.append(first + 1 + (chunk == end_of_text).nonzero()[:, 0].numpy())
            advance(len(chunk))
    return np.concatenate(ends)


def _kept(path: Path, tokens: Ids, end_of_text: int) -> Places | None:
    """What a former call found, or None where that is missing or damaged."""
    try:
        ends = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if ends.dtype != np.int64 or ends.ndim != 1 or not len(ends):
        return None
    if (np.diff(ends) < 1).any() or ends[0] < 1 or ends[-1] > len(tokens):
        return None
    return ends if (tokens.windows(torch.from_numpy(ends - 1), 1) == end_of_text).all() else None


class Pieces:
    """Documents cut where they are longer than a window: every id but what comes behind the last
    end of a document is in one piece, as a target."""

    def __init__(self, ends: Places, block_size: int):
        """`ends` are the places behind end-of-text ids."""
        begins = np.concatenate([[0], ends[:-1]])
        lengths = ends - begins
        begins, lengths = begins[lengths > 1], lengths[lengths > 1]  # some may be empty
        n_pieces = -(-lengths // block_size)
        self.n_documents, self.n_cut = len(lengths), int((n_pieces > 1).sum())
        self.n_ids = int(lengths.sum())
        number = np.arange(n_pieces.sum()) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
        starts = np.repeat(begins, n_pieces) + number * block_size
        sizes = np.minimum(np.repeat(begins + lengths, n_pieces) - starts, block_size)
        kinds = sizes + (block_size + 1) * (number > 0)
        self.starts = starts[np.argsort(kinds, kind="stable")]  # by kind
        self.counts = np.bincount(kinds, minlength=2 * block_size + 2)
        self.firsts = np.cumsum(self.counts) - self.counts  # of each kind in `starts`
        self.packing, self.block_size = Packing(self.counts, block_size), block_size
        self.an_end = int(ends[0]) - 1  # where an end-of-text id stands

    @property
    def padding(self) -> float:
        """Of the targets in windows, the share that is none."""
        return 1 - self.n_ids / (len(self.packing) * self.block_size)

    def __str__(self) -> str:
        cut = f", {self.n_cut / self.n_documents:.1%} of them cut" if self.n_cut else ""
        return f"{self.n_documents:,} documents{cut}, {self.padding:.2%} of targets padding"


class Documents(Counted):
    """Every piece of a document exactly once in an epoch.

    A window opens with an end-of-text id, and documents follow each other, each with its end, which
    the next one begins from; what is left of a window is filled up with ids that are no targets. A
    document that is longer than a window is cut into pieces: those that fill a window, and a last
    one, which is packed with others. Each epoch draws anew which pieces of one length come where.
    """

    def __init__(self, tokens: Ids, pieces: Pieces, share: Share, seed: int):
        super().__init__(share, len(pieces.packing))
        self.tokens, self.pieces, self.key = tokens, pieces, str(derive(seed, "data"))

    def find(self, places: Places) -> Places:
        """The number of each window in the packing, and n_windows more for each epoch before."""
        numbers = np.empty_like(places)
        for some, moved, _ in each_epoch(places, self.n_windows, self.key):
            numbers[some] = moved + places[some] // self.n_windows * self.n_windows
        return numbers

    def gather(self, numbers: Places) -> Tensor:
        pieces, length = self.pieces, self.pieces.block_size + 1
        slots = pieces.packing.slots(numbers % self.n_windows)
        epochs = (numbers // self.n_windows)[slots.window]
        which = np.empty_like(slots.which)
        for epoch in np.unique(epochs):
            some = epochs == epoch
            keys, _ = keys_of(f"{self.key}/epoch {epoch}/pieces")
            kind = slots.kind[some]
            of_kinds = keys[:, None] ^ (
                kind.astype(np.uint64) << HALF
            )  # each in an order of its own
            which[some] = Permutation(pieces.counts[kind], of_kinds)(slots.which[some])
        starts = pieces.starts[pieces.firsts[slots.kind] + which]

        # Where each id of the windows stands in the text, and which are targets.
        places = np.full(len(numbers) * length, pieces.an_end)
        is_target = np.zeros(len(places), bool)
        goes_on = slots.kind // length  # 1 where a piece brings the id before it along
        sizes = slots.kind % length + goes_on
        firsts = slots.window * length + slots.offset + 1
        firsts -= goes_on * (slots.offset == 0)  # for which a window's first id is there
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        into = np.repeat(firsts, sizes) + within
        places[into] = np.repeat(starts - goes_on, sizes) + within
        is_target[into] = True
        is_target[firsts[goes_on == 1]] = False
        ids = self.tokens.windows(torch.from_numpy(places), 1)[:, 0]
        targets = torch.from_numpy(is_target).to(ids.device)
        return torch.where(targets, ids, ~ids).view(-1, length)
