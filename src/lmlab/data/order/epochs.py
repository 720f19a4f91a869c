"""`data.order=epochs`: windows side by side, each exactly once before any comes again."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmlab.data.ids import Ids
from lmlab.data.order.order import Counted, Share
from lmlab.data.order.permutation import each_epoch
from lmlab.data.streams import derive


class Epochs(Counted):
    """The windows of an epoch lie side by side, `block_size` apart: each begins with the last id of
    the one before it, so that every id is a target once.

    All of them are shifted by a number that is drawn for each epoch, so that no place in the text
    is always at a window's border. So that every epoch has as many, whatever the shift, one window
    fewer is taken than would fit.
    """

    def __init__(self, tokens: Ids, block_size: int, share: Share, seed: int):
        super().__init__(share, windows_an_epoch(len(tokens), block_size))
        self.tokens, self.block_size, self.key = tokens, block_size, str(derive(seed, "data"))
        room = len(tokens) - 1 - self.n_windows * block_size
        self.n_shifts = min(block_size, room + 1)

    def find(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where windows start."""
        starts = np.empty_like(places)
        for some, moved, number in each_epoch(places, self.n_windows, self.key):
            starts[some] = moved * self.block_size + number % self.n_shifts
        return starts

    def gather(self, numbers: NDArray[np.int64]) -> Tensor:
        return self.tokens.windows(torch.from_numpy(numbers), self.block_size + 1)


def windows_an_epoch(n_ids: int, block_size: int) -> int:
    """Of order=epochs."""
    return max(1, (n_ids - 1) // block_size - 1)
