"""One seed, separate streams of random numbers."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

Stream = Literal["init", "data", "dropout", "eval", "sample"]


def derive(seed: int, stream: Stream) -> int:
    """The seed of one stream: unrelated numbers for each, and none is moved by another's draws."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8]) >> 1


def generator(seed: int, stream: Stream) -> torch.Generator:
    """A fresh generator on the CPU for one stream; the same for the same seed."""
    return torch.Generator().manual_seed(derive(seed, stream))
