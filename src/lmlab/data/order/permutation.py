"""Keyed permutations of 0 to n - 1: where any one place goes is computed, and no list is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
# Odd numbers without a pattern, to multiply by: those of SplitMix64 (Steele et al. 2014).
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
HALF = np.uint64(32)  # of the bits of a number

Keys = NDArray[np.uint64]  # (ROUNDS,), or (ROUNDS, m) for m places


def keys_of(text: str) -> tuple[Keys, int]:
    """The keys of one permutation, and a number besides: unrelated ones for each text."""
    digest = hashlib.shake_256(text.encode()).digest(8 * ROUNDS + 8)
    return np.frombuffer(digest[8:], "<u8"), int.from_bytes(digest[:8], "little")


class Permutation:
    """A permutation of 0 to n - 1, for n below 2^62; or many, if `n` and the keys are arrays: each
    place that it is called with is then moved among so many of its own, by its own keys.

    A place is written as two numbers, left * width + right, and each in turn is shifted by a hash
    of the other (a Feistel network; Black and Rogaway 2002, "Ciphers with arbitrary finite
    domains"). That permutes height * width places, a few more than n; one that comes out beyond
    n - 1 goes on from there until it is back (cycle walking).
    """

    def __init__(self, n: int | NDArray[np.int64] | NDArray[np.uint64], keys: Keys):
        self.n, self.keys = np.asarray(n, np.uint64), keys
        self.height = np.ceil(np.sqrt(self.n.astype(np.float64))).astype(np.uint64)
        self.width = (self.n + self.height - np.uint64(1)) // self.height

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where places go, (any shape that `n` has, or (m,) where that is a number)."""
        moved = self._moved(places.astype(np.uint64))
        while (beyond := np.flatnonzero(moved >= self.n)).size:
            moved[beyond] = self._of(beyond)._moved(moved[beyond])
        return moved.astype(np.int64)

    def _of(self, some: NDArray[np.int64]) -> Permutation:
        """Those of some places."""
        if not self.n.ndim:
            return self
        keys = self.keys[:, some] if self.keys.ndim > 1 else self.keys
        return Permutation(self.n[some], keys)

    def _moved(self, places: NDArray[np.uint64]) -> NDArray[np.uint64]:
        height, width = self.height, self.width
        left, right = np.divmod(places, width)
        for i in range(0, ROUNDS, 2):
            left += _hashed(right, self.keys[i], height)
            left -= height * (left >= height)
            right += _hashed(left, self.keys[i + 1], width)
            right -= width * (right >= width)
        left *= width
        left += right
        return left


def _hashed(
    numbers: NDArray[np.uint64], key: np.uint64 | Keys, below: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Of each a number from 0 to `below` - 1, which is below 2^32; sums and products wrap."""
    mixed = (numbers + key) * FIRST
    mixed ^= mixed >> HALF
    mixed *= SECOND
    mixed >>= HALF
    mixed *= below  # the upper half of the product: as good as a remainder, and faster
    mixed >>= HALF
    return mixed


def each_epoch(
    places: NDArray[np.int64], n: int, key: str
) -> Iterator[tuple[slice, NDArray[np.int64], int]]:
    """Ascending places of a row in which 0 to n - 1 come again and again, each time in another
    order: those of each epoch as a slice, what comes there, and a number drawn for the epoch."""
    epochs, within = np.divmod(places, n)
    numbers, firsts = np.unique(epochs, return_index=True)
    for epoch, first, end in zip(numbers, firsts, [*firsts[1:], len(places)], strict=True):
        keys, number = keys_of(f"{key}/epoch {epoch}")
        yield slice(first, end), Permutation(n, keys)(within[first:end]), number
