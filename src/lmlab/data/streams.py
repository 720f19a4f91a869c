"""One seed, separate streams of random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from lmlab.data.turns import own_turn

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


@contextmanager
def own_default_generators() -> Iterator[None]:
    """Within, torch's default generators belong to this thread; afterwards they are as before.

    A process has one set of them, so what another thread trains or computes comes after this.
    """
    with own_turn():
        before = default_states()
        try:
            yield
        finally:
            set_default_states(before)
