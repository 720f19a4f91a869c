"""What the datamodule asks of an order, and what is common to those that count."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lmlab.errors import LabError

# Windows that are found at once: enough that numpy's cost of a call does not count.
AHEAD = 1 << 12
AHEAD_EPOCHS = 2  # at most; each has a permutation of its own


class Share(NamedTuple):
    """What a process has of each batch: windows rank * batch_size and so many after it, of those of
    all processes together."""

    batch_size: int
    rank: int = 0
    world_size: int = 1

    @property
    def drawn(self) -> int:
        """Windows of a batch in all processes."""
        return self.batch_size * self.world_size

    @property
    def mine(self) -> slice:
        return slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)


class Order(ABC):
    """The batches that are trained on, one after the other without end.

    However many are taken at a time, they are the same; and from a `state` it goes on as if nothing
    had happened.
    """

    @abstractmethod
    def take(self, n_batches: int) -> Tensor:
        """This process's share of the next batches: windows (n_batches, batch_size,
        block_size + 1), int64. An id that is no target is written as ~id: see
        `windows.inputs_and_targets`."""

    @abstractmethod
    def state(self, n_taken: int) -> dict[str, Any]:
        """Where it is once `n_taken` batches of the last `take` are used and no more (0 if nothing
        is taken yet): plain data that a checkpoint keeps."""

    @abstractmethod
    def go_on(self, state: dict[str, Any]) -> None:
        """Take up where `state` was."""

    @abstractmethod
    def check(self, state: dict[str, Any]) -> None:
        """Whether `state` is one to go on from.

        Raises:
            LabError: if it is of another order, or of processes that share batches otherwise.
        """


class Counted(Order):
    """Windows in a row without end, of which any is found by its place.

    So the state is a number, how many windows all processes have had, and more processes or fewer
    may go on from it.
    """

    def __init__(self, share: Share, n_windows: int):
        """`n_windows` are an epoch."""
        self.share, self.n_windows = share, n_windows
        self.n_used = self._before = 0  # before the last take
        self._ready: NDArray[np.int64] | None = None  # the next batches' windows: (n, batch_size)

    @abstractmethod
    def find(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number for each of some ascending places of the row, by which to gather its window."""

    @abstractmethod
    def gather(self, numbers: NDArray[np.int64]) -> Tensor:
        """The windows (n, block_size + 1) of n numbers that `find` has made."""

    def take(self, n_batches: int) -> Tensor:
        if self._ready is None or len(self._ready) < n_batches:
            self._ready = self._found(n_batches)
        numbers, self._ready = self._ready[:n_batches], self._ready[n_batches:]
        self._before, self.n_used = self.n_used, self.n_used + n_batches * self.share.drawn
        return self.gather(numbers.ravel()).unflatten(0, numbers.shape)

    def _found(self, at_least: int) -> NDArray[np.int64]:
        ahead = min(AHEAD, AHEAD_EPOCHS * self.n_windows)
        n_batches = max(at_least, math.ceil(ahead / self.share.drawn))
        firsts = self.n_used + self.share.drawn * np.arange(n_batches)[:, None]
        places = firsts + np.arange(self.share.drawn)[self.share.mine]
        return self.find(places.ravel()).reshape(places.shape)

    def state(self, n_taken: int) -> dict[str, Any]:
        n_used = self._before + n_taken * self.share.drawn
        return {"windows": n_used, "windows_per_batch": self.share.drawn}

    def go_on(self, state: dict[str, Any]) -> None:
        self.n_used = self._before = state["windows"]
        self._ready = None

    def check(self, state: dict[str, Any]) -> None:
        now, before = self.share.drawn, state.get("windows_per_batch")
        if "windows" not in state:
            raise LabError("data.order: the checkpoint has no count of windows to go on from")
        if before not in (now, None):
            raise LabError(
                f"data.batch_size={self.share.batch_size} in {self.share.world_size} processes: "
                f"{now} windows in a batch, and the run has had {before}; it goes on with as many"
            )
