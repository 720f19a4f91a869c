"""A tokenizer with an argument, and a corpus."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.data.corpus import Corpus
from lmlab.data.tokenizer import Tokenizer


class Pairs(Tokenizer):
    """The 256 bytes, and the `n_pairs` most frequent pairs of them."""

    kind = "pairs"
    passes = 2

    def __init__(self, pairs: list[bytes]):
        self.pieces = [bytes([byte]) for byte in range(256)] + pairs
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}
        self.vocab_size = len(self.pieces)

    @classmethod
    def fit(cls, pieces: Iterable[str], n_pairs: int) -> "Pairs":
        text = "".join(pieces).encode()
        counts = Counter(text[i : i + 2] for i in range(len(text) - 1))
        return cls(sorted(counts, key=lambda pair: (-counts[pair], pair))[:n_pairs])

    def encode(self, text: str) -> np.ndarray:
        raw, ids, at = text.encode(), [], 0
        while at < len(raw):
            length = 2 if raw[at : at + 2] in self.ids and at + 2 <= len(raw) else 1
            ids.append(self.ids[raw[at : at + length]])
            at += length
        return np.array(ids, dtype=self.dtype)

    def cut(self, pieces: Iterable[str]) -> Iterator[str]:
        yield "".join(pieces)

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]

    def to_json(self) -> dict[str, Any]:
        return {"pairs": [list(pair) for pair in self.pieces[256:]]}

    @classmethod
    def _from_json(cls, state: dict[str, Any]) -> "Pairs":
        return cls([bytes(pair) for pair in state["pairs"]])


def verses(name: str) -> Corpus:
    return Corpus(name, (Path(__file__).with_name(f"{name}.txt"),))
