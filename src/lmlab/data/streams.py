"""One seed, separate streams of random numbers; and several runs that share torch's own."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch

Stream = Literal["init", "data", "dropout", "eval", "sample"]


def derive(seed: int, stream: Stream) -> int:
    """The seed of one stream: unrelated numbers for each, and none is moved by another's draws."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8]) >> 1


def generator(seed: int, stream: Stream) -> torch.Generator:
    """A fresh generator on the CPU for one stream; the same for the same seed."""
    return torch.Generator().manual_seed(derive(seed, stream))


def default_states() -> dict[str, Any]:
    """The states of torch's default generators: dropout and initialisation draw from these."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_default_states(states: dict[str, Any]) -> None:
    """Let torch's default generators go on from `default_states`."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


class Turns:
    """A lock that goes to whoever has waited for it longest."""

    def __init__(self) -> None:
        self._queue: deque[threading.Event] = deque()  # who has the turn, then who waits
        self._lock = threading.Lock()

    def take(self) -> None:
        mine = threading.Event()
        with self._lock:
            self._queue.append(mine)
            if self._queue[0] is mine:
                return
        mine.wait()

    def give_up(self) -> None:
        with self._lock:
            self._queue.popleft()
            if self._queue:
                self._queue[0].set()  # one thread is woken, not all

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for the turn that another has."""
        return len(self._queue) > 1


_turns = Turns()
_has_turn: ContextVar[bool] = ContextVar("has_turn", default=False)


@contextmanager
def own_default_generators() -> Iterator[None]:
    """Within, torch's default generators belong to this run; afterwards they are as before.

    A process has one set of them. Runs in several threads therefore take turns: one computes, and
    `let_others` is where it hands over.
    """
    nested = _has_turn.get()
    if not nested:
        _turns.take()
    before, token = default_states(), _has_turn.set(True)
    try:
        yield
    finally:
        set_default_states(before)
        _has_turn.reset(token)
        if not nested:
            _turns.give_up()


@contextmanager
def turn_given_up() -> Iterator[None]:
    """Within, the runs of other threads have their turn; only who has it can give it up."""
    mine = default_states()
    _turns.give_up()
    try:
        yield
    finally:
        _turns.take()
        set_default_states(mine)


def let_others() -> None:
    """Let the runs of other threads have their turn, if any waits."""
    if _turns.wanted and _has_turn.get():
        with turn_given_up():
            pass
