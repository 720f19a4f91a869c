"""Ids in a row, of which windows are gathered: one tensor, or several that follow each other.

Tensors may be mapped from disk. Nothing is copied but what is asked for, so there may be more ids
than memory. torch is imported once windows are: a run that is done only asks for its text's sha256.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Ids:
    """The ids of a text, or of a split of it."""

    def __init__(self, *parts: Tensor | np.ndarray):
        """1-D, of integers of one dtype and on one device."""
        self._given = [part for part in parts if len(part)] or [np.empty(0, np.uint8)]
        self._length = sum(map(len, self._given))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, some: slice) -> Ids:
        """The ids from one place to another, as views."""
        first, last, _ = some.indices(len(self))
        cut, begin = [], 0
        for part in self._given:
            cut.append(part[max(first - begin, 0) : max(last - begin, 0)])
            begin += len(part)
        return self._of(cut)

    def _of(self, parts: Sequence[Tensor | np.ndarray]) -> Ids:
        """Other ids of the same kind."""
        return Ids(*parts)

    @cached_property
    def parts(self) -> list[Tensor]:
        return [_tensor(part) if isinstance(part, np.ndarray) else part for part in self._given]

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    @cached_property
    def _ends(self) -> Tensor:
        import torch

        return torch.tensor([*accumulate(map(len, self.parts))])

    @property
    def arrays(self) -> list[np.ndarray]:
        """The parts on the CPU, as numpy has them."""
        return [p if isinstance(p, np.ndarray) else p.numpy() for p in self._given]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._given)

    def whole(self) -> Tensor:
        """All of them in one tensor (n,); several are copied."""
        import torch

        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Ids:
        """A copy in the memory of `device`, in one tensor; themselves if they are there already."""
        import torch

        dtype = dtype or self.dtype
        if (device, dtype) == (self.device, self.dtype):
            return self
        moved = torch.empty(len(self), dtype=dtype, device=device)
        for place, part in zip(moved.split([*map(len, self.parts)]), self.parts, strict=True):
            place.copy_(part)
        return Ids(moved)

    def windows(self, starts: Tensor, length: int) -> Tensor:
        """The `length` ids from each of `starts` (n,) on: (n, length), int64, where the ids are."""
        if len(self.parts) > 1:
            return self._windows_of_several(starts, length)
        if self.device.type == "cuda" and not starts.is_cuda:
            starts = starts.pin_memory()  # so that nobody waits for the copy
        starts = starts.to(self.device, non_blocking=True)
        # One gather, no loop. (Indexing with [starts] gives the same in twice the time.)
        return self.parts[0].unfold(0, length, 1).index_select(0, starts).long()

    def _windows_of_several(self, starts: Tensor, length: int) -> Tensor:
        """The same: those within a part at once, and each that reaches beyond one by itself."""
        import torch

        windows = torch.empty(len(starts), length, dtype=torch.int64)
        part_of = torch.bucketize(starts, self._ends, right=True)
        reaches_beyond = starts + length > self._ends[part_of]
        for n in part_of.unique().tolist():
            part = self.parts[n]
            rows = ((part_of == n) & ~reaches_beyond).nonzero()[:, 0]
            if len(rows):
                within = starts[rows] - (int(self._ends[n]) - len(part))
                windows[rows] = part.unfold(0, length, 1).index_select(0, within).long()
        for row in reaches_beyond.nonzero()[:, 0].tolist():
            start = int(starts[row])
            windows[row] = self[start : start + length].whole()
        return windows


def _tensor(array: np.ndarray) -> Tensor:
    """An array as a tensor, without a copy; nothing is ever written to it.

    A mapped file that could be written to counts as memory, of which there may be less.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
