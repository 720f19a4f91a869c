"""Pieces of documents packed into windows, by their lengths alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Slots:
    """The places of windows for pieces, one after the other."""

    window: Numbers  # which of the windows that were asked for
    offset: Numbers  # where in the window
    kind: Numbers  # of the piece that comes there
    which: Numbers  # of the pieces of its kind


class Packing:
    """Which pieces share a window; every piece has one place.

    A piece has a length up to block_size, and is the beginning of a document (perhaps all of it) or
    goes on with one. Its kind is the length, and block_size + 1 more where it goes on. A window has
    block_size places behind its first id. A piece that goes on brings the id before it along, which
    takes one place more, but at the beginning of a window, where the first id is that one.

    The longest piece that is left opens a window, and what fits best into the rest follows it until
    nothing does: best fit, from the window's side. Only how many there are of each kind decides, so
    equal windows are counted, not listed, and a billion pieces are packed as quickly as a thousand.
    """

    def __init__(self, counts: Numbers, block_size: int):
        """`counts` (2 * block_size + 2,) of each kind."""
        self.block_size = block_size
        kinds, offsets, uses, steps, n_slots, n_windows = [], [], [], [], [], []
        left, used = counts.copy(), np.zeros_like(counts)
        while left.any():
            pattern = self._fill(left)
            times = np.bincount([kind for kind, _ in pattern], minlength=len(counts))
            inside = times.nonzero()[0]
            n_alike = int((left[inside] // times[inside]).min())
            seen = np.zeros_like(counts)
            for kind, offset in pattern:
                kinds.append(kind)
                offsets.append(offset)
                uses.append(used[kind] + seen[kind])
                steps.append(times[kind])
                seen[kind] += 1
            left -= n_alike * times
            used += n_alike * times
            n_slots.append(len(pattern))
            n_windows.append(n_alike)
        self._kinds, self._offsets = np.array(kinds, np.int64), np.array(offsets, np.int64)
        self._uses, self._steps = np.array(uses, np.int64), np.array(steps, np.int64)
        self._n_slots = np.array(n_slots, np.int64)
        self._first_slots = np.cumsum(self._n_slots) - self._n_slots
        self._ends = np.cumsum(np.array(n_windows, np.int64))  # of windows that are alike

    def __len__(self) -> int:
        """How many windows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def _fill(self, left: Numbers) -> list[tuple[int, int]]:
        """The kinds of the pieces in the next window, and where each is put."""
        begin, goes_on = left[: self.block_size + 1].copy(), left[self.block_size + 1 :].copy()
        pattern, offset, room = [], 0, self.block_size
        extra = 0  # what a piece that goes on takes besides its length
        while room:
            longest, other = _longest(begin, room), _longest(goes_on, room - extra)
            if not longest and not other:
                break
            if other and other + extra > longest:
                kind, length, cost = self.block_size + 1 + other, other, other + extra
                goes_on[length] -= 1
            else:
                kind, length, cost = longest, longest, longest
                begin[length] -= 1
            pattern.append((kind, offset))
            offset, room, extra = offset + cost, room - cost, 1
        return pattern

    def slots(self, windows: Numbers) -> Slots:
        """Those of some windows (n,)."""
        alike = np.searchsorted(self._ends, windows, side="right")
        n_slots = self._n_slots[alike]
        window = np.repeat(np.arange(len(windows)), n_slots)
        within = np.arange(len(window)) - np.repeat(np.cumsum(n_slots) - n_slots, n_slots)
        slot = self._first_slots[alike][window] + within
        before = np.concatenate([[0], self._ends])[alike]  # windows of other patterns
        which = self._uses[slot] + (windows - before)[window] * self._steps[slot]
        return Slots(window, self._offsets[slot], self._kinds[slot], which)


def _longest(counts: Numbers, at_most: int) -> int:
    """The largest length of which there is one; 0 if there is none."""
    lengths = counts[: max(at_most, 0) + 1].nonzero()[0]
    return int(lengths[-1]) if len(lengths) else 0
