"""Text to ids on all cores."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from lmlab.config.targets import class_name
from lmlab.console import say
from lmlab.data.corpus import Corpus
from lmlab.data.sources.blocks import BrokenError, Progress
from lmlab.data.sources.documents import Listener
from lmlab.data.tokenising.unfinished import Unfinished
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError

MOST_COMPRESSED = 20  # characters that a byte of a compressed text may stand for


def n_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_cores(
    encode: Callable[[str], np.ndarray], pieces: Iterator[str], n: int
) -> Iterator[np.ndarray]:
    """The ids of each piece, in their order, while up to n threads work on others.

    Few pieces are read ahead, so memory is bounded. Threads need no copies and no start-up, and
    work at once where `encode` lets go of Python's lock.
    """
    if n == 1:
        yield from map(encode, pieces)
        return
    with ThreadPoolExecutor(n) as pool:
        begun: deque[Future[np.ndarray]] = deque()
        try:
            for piece in pieces:
                begun.append(pool.submit(encode, piece))
                if len(begun) > 2 * n:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for later in begun:
                later.cancel()


@dataclass
class TextOf:
    """A corpus as a tokenizer of some class sees it."""

    corpus: Corpus
    val_fraction: float
    progress: Progress
    kind: type[Tokenizer]
    n_first: int | None = None  # characters of the train split, where a tokenizer must know them

    def splits(self, listener: Listener) -> tuple[Iterator[str], Iterator[str]]:
        """Train and val, to be read in this order; nothing is val's where it is a share of ids."""
        if self.corpus.knows_val:
            return self.corpus.train_and_val(self.val_fraction, listener)
        return divided(self.corpus.pieces(listener), self.n_first)

    def fit(self, arguments: dict[str, Any]) -> Tokenizer:
        """The tokenizer for the text."""
        listener, kind, name = Listener(progress=self.progress), self.kind, class_name(self.kind)
        first: Iterator[str] = self.corpus.pieces(listener)
        rest: Iterator[str] = iter(())
        if kind.fitted_on_train:
            if self.corpus.knows_val:
                self.progress(self.corpus.n_bytes)  # nothing is to be counted
            else:
                n_characters = sum(map(len, first))
                self.n_first = int((1 - self.val_fraction) * n_characters)
            first, rest = self._sampled(listener)
        tokenizer = kind.fit(first, **arguments)
        check_made(tokenizer, name)
        deque(rest, maxlen=0)  # for the sake of progress alone
        return tokenizer.with_end_of_text() if self.corpus.documents else tokenizer

    def _sampled(self, listener: Listener) -> tuple[Iterator[str], Iterator[str]]:
        """Both splits; of a large one for training as much as its kind learns from."""
        train, val = self.splits(listener)
        most, n_characters = self.kind.learns_from, self.n_first
        if most is None or self.corpus.n_bytes * MOST_COMPRESSED < most:
            return train, val
        if n_characters is None:
            n_characters = sum(map(len, self.splits(Listener())[0]))
        if n_characters <= most:
            return train, val
        say(
            f"tokenizer={self.kind.kind} learns from {most / 1e6:,.0f} of the train split's "
            f"{n_characters / 1e6:,.0f} million characters: pieces from all over it"
        )
        return _some(train, most / n_characters), val


def _some(pieces: Iterator[str], share: float) -> Iterator[str]:
    """A share of the pieces, evenly spread."""
    due = 0.0
    for piece in pieces:
        due += share
        if due >= 1:
            due -= 1
            yield piece


def write(text: TextOf, tokenizer: Tokenizer, unfinished: Unfinished) -> dict[str, Any]:
    """Write the ids of a text, or those that a killed process had not yet; what is kept about
    them."""
    noted = unfinished.noted or {}
    n_done, n_train = noted.get("n_pieces", 0), noted.get("n_train")
    knows_train = text.n_first is not None or text.corpus.knows_val
    name, of_documents = type(tokenizer).__qualname__, text.corpus.documents is not None
    encode = tokenizer.encode_documents if of_documents else tokenizer.encode
    threads = n_cores() if tokenizer.in_threads else 1
    digest, stored = hashlib.sha256(), tokenizer.stored()
    broken: list[BrokenError] = []

    n_pieces = 0
    for split in text.splits(Listener(digest.update, text.progress, broken.append)):
        pieces = tokenizer.cut(split)
        for _ in islice(pieces, max(n_done - n_pieces, 0)):  # read for the sake of the checksum
            n_pieces += 1
        for ids in on_cores(lambda piece: _ids(tokenizer, encode(piece), name), pieces, threads):
            unfinished.write(ids)
            n_pieces += 1
            if unfinished.is_due:
                so_far = {"n_pieces": n_pieces, "n_first": text.n_first, "n_train": n_train}
                unfinished.keep({**so_far, "tokenizer": stored})
        if n_train is None and knows_train:
            n_train = unfinished.n_bytes // tokenizer.dtype.itemsize
    about: dict[str, Any] = {
        "n_tokens": unfinished.n_bytes // tokenizer.dtype.itemsize,
        "sha256": digest.hexdigest(),
        "tokenizer": stored,
        "crc32": unfinished.crc32,
    }
    if n_train is not None:
        about["n_train"] = n_train
    if broken:
        about["left_out"] = f"corpus.skip_broken: {len(broken):,} left out, the first: {broken[0]}"
    return about


def check_made(tokenizer: Any, name: str) -> None:
    """Whether what a `fit` returned is a tokenizer that keeps its promises."""
    if not isinstance(tokenizer, Tokenizer):
        raise LabError(f"tokenizer: {name}.fit has to return a Tokenizer; it returns {tokenizer!r}")
    size = getattr(tokenizer, "vocab_size", None)
    if not isinstance(size, int) or size < 1:
        raise LabError(f"tokenizer: {name} has to set vocab_size, a count of ids; it is {size!r}")
    if not isinstance(some := tokenizer.token_bytes(0), bytes):
        raise LabError(
            f"tokenizer: {name}.token_bytes has to return bytes; it returns {some!r:.80}"
        )
    state = tokenizer.to_json()
    try:
        is_plain = isinstance(state, dict) and bool(json.dumps(state))
    except (TypeError, ValueError):
        is_plain = False
    if not is_plain:
        raise LabError(
            f"tokenizer: {name}.to_json has to return a dict of JSON; it returns {state!r:.80}"
        )


def _ids(tokenizer: Tokenizer, ids: Any, name: str) -> np.ndarray:
    """What an `encode` returned, in the tokenizer's dtype."""
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        is_array = isinstance(ids, np.ndarray)
        what = f"one of {ids.ndim}-D {ids.dtype}" if is_array else f"a {type(ids).__name__}"
        raise LabError(
            f"tokenizer: {name}.encode has to return a 1-D array of integers; it returns {what}"
        )
    if len(ids) and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise LabError(
            f"tokenizer: {name} made the id {wrong}, beyond its vocabulary of "
            f"{tokenizer.vocab_size}"
        )
    return ids.astype(tokenizer.dtype, copy=False)


def divided(pieces: Iterator[str], n_first: int | None) -> tuple[Iterator[str], Iterator[str]]:
    """The first characters of a text (None: all), and the rest, to be read in this order."""
    begun: list[str] = []

    def first() -> Iterator[str]:
        left = n_first
        for piece in pieces:
            if left is None:
                yield piece
            elif len(piece) < left:
                yield piece
                left -= len(piece)
            else:
                yield piece[:left]
                begun.append(piece[left:])
                return

    return first(), chain(begun, pieces)
