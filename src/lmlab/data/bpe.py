"""Byte pair encoding that is trained on the train split, by Hugging Face's `tokenizers`.

Ids 0 to 255 are the single bytes, as in the byte tokenizer, so any text can be encoded and comes
back exactly. Each later id is two earlier ones joined, the most frequent pair first. Pairs are
joined within a word only, where GPT-2's pattern cuts words; a word of more than `LONGEST_WORD`
bytes (DNA, base64, a text without spaces) is cut after as many.

Sennrich, Haddow and Birch 2016, https://arxiv.org/abs/1508.07909.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import index
from typing import Any

import numpy as np

from lmlab.data.sources.blocks import import_extra
from lmlab.data.tokenising.pieces import END, cut_between_words, parts_between_words
from lmlab.data.tokenizer import (
    SINGLE_BYTES,
    WITHOUT_BPE,
    Tokenizer,
    end_of,
    has_end_of,
)
from lmlab.errors import LabError

MIN_FREQUENCY = 2  # a pair that occurs once teaches nothing
# Bytes. Each merge is looked for in all of a word, so the time to learn grows with the square of
# its length: a single word of a megabyte takes minutes, and seconds when it is cut.
LONGEST_WORD = 1024
# Characters: `tokenizers` is fastest with short texts, and holds much for each token of its answer.
PART, PARTS = 1 << 10, 64  # of so many a batch is made
MOST_REPEATED = 100_000  # what a regular expression of `tokenizers` may ask for

# `tokenizers` has a printable character for each byte: its own where it has one, else from U+0100.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_AS_CHARACTER = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(0x100 + i) for i, byte in enumerate(_OTHERS)
}
_AS_BYTE = {character: byte for byte, character in _AS_CHARACTER.items()}


class BPETokenizer(Tokenizer):
    """Bytes and the pairs of them that are most frequent in the train split (extra `bpe`)."""

    kind = "bpe"
    passes = 3  # to count its characters, to train, to encode
    fitted_on_train = True
    learns_from = 100_000_000
    in_threads = True

    def __init__(
        self,
        merges: Sequence[tuple[int, int]],
        longest_word: int | None = LONGEST_WORD,
        has_end: bool = False,
    ):
        """`merges` are the pairs of ids that are joined, in the order in which that is tried;
        `longest_word` is in bytes (None: words are not cut, as in files that others wrote);
        `has_end`: there is an end-of-text id.

        Raises:
            ValueError: if a pair has an id that no earlier pair made, or words no length.
        """
        if longest_word is not None and not 1 <= index(longest_word) <= MOST_REPEATED:
            raise ValueError(f"longest_word={longest_word}: from 1 to {MOST_REPEATED:,}, or none")
        tokenizers = import_tokenizers()
        self.merges = [(index(left), index(right)) for left, right in merges]
        self.longest_word = longest_word
        self._tokens, ids = list(SINGLE_BYTES), {token: i for i, token in enumerate(SINGLE_BYTES)}
        for left, right in self.merges:
            if not (0 <= left < len(self._tokens) and 0 <= right < len(self._tokens)):
                raise ValueError(f"a merge of {left} and {right}, of which one is not made yet")
            token = self._tokens[left] + self._tokens[right]
            if token not in ids:  # two ways may lead to one token
                ids[token] = len(self._tokens)
                self._tokens.append(token)
        self.end_of_text = len(self._tokens) if has_end else None
        self.vocab_size = len(self._tokens) + has_end
        names = [as_characters(token) for token in self._tokens]
        self._encoding = tokenizers.Tokenizer(
            tokenizers.models.BPE(
                vocab={name: i for i, name in enumerate(names)},
                merges=[(names[left], names[right]) for left, right in self.merges],
            )
        )
        self._encoding.pre_tokenizer = words(self.longest_word)

    @classmethod
    def fit(cls, pieces: Iterable[str], vocab_size: int = 512) -> BPETokenizer:
        """Learn the merges of a text. The same text gives the same ones, in whatever pieces.

        Raises:
            LabError: if `vocab_size` is less than the bytes need, or more than the text gives.
        """
        if vocab_size < len(SINGLE_BYTES):
            raise LabError(
                f"tokenizer.vocab_size={vocab_size}: at least {len(SINGLE_BYTES)}, for each byte "
                "is a token"
            )
        tokenizers = import_tokenizers()
        learner = tokenizers.Tokenizer(tokenizers.models.BPE())
        learner.pre_tokenizer = words(LONGEST_WORD)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=MIN_FREQUENCY,
            initial_alphabet=list(_AS_BYTE),
            show_progress=False,
        )
        cut = (text for piece in cut_between_words(pieces, True) for text in piece.split(END))
        parts = (part for text in cut for part in parts_between_words(text, PART))
        learner.train_from_iterator(parts, trainer)
        tokenizer = cls(_merges(json.loads(learner.to_str())["model"]["merges"]))
        if tokenizer.vocab_size < vocab_size:
            raise LabError(
                f"tokenizer.vocab_size={vocab_size} is more than this train split gives: at most "
                f"{tokenizer.vocab_size}, for no other pair occurs {MIN_FREQUENCY} times"
            )
        return tokenizer

    def encode(self, text: str) -> np.ndarray:
        return self._encode([text])

    def encode_documents(self, text: str) -> np.ndarray:
        return self._encode(text.split(END))

    def _encode(self, documents: list[str]) -> np.ndarray:
        """Ids of documents, with the end-of-text id between them."""
        parts = ([*parts_between_words(document, PART)] for document in documents)
        each = chain.from_iterable((*some, None) for some in parts)  # None: a document ends
        ids = [np.empty(0, self.dtype)]
        while some := [*islice(each, PARTS)]:
            encoded = iter(self._encoding.encode_batch_fast([p for p in some if p is not None]))
            for part in some:
                part_ids = [self.vocab_size - 1] if part is None else next(encoded).ids
                ids.append(np.array(part_ids, dtype=self.dtype))
        return np.concatenate(ids[:-1])  # the last document may go on

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == self.end_of_text else self._tokens[token]

    def to_json(self) -> dict[str, Any]:
        own_cut = {"longest_word": self.longest_word} if self.longest_word != LONGEST_WORD else {}
        merges = [list(pair) for pair in self.merges]
        return {"kind": self.kind, "merges": merges, **own_cut, **end_of(self)}

    @classmethod
    def _from_json(cls, state: dict[str, Any]) -> BPETokenizer:
        longest_word = state.get("longest_word", LONGEST_WORD)
        return cls(state["merges"], longest_word, has_end_of(state))

    def cut(self, pieces: Iterable[str]) -> Iterator[str]:
        return cut_between_words(pieces, self.end_of_text is not None)


def _merges(named: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Merges of byte strings, as `tokenizers` writes them, as merges of ids."""
    ids = dict(_AS_BYTE)
    merges = []
    for left, right in named:
        merges.append((ids[left], ids[right]))
        ids.setdefault(left + right, len(ids))
    return merges


def as_characters(token: bytes) -> str:
    """A byte string as `tokenizers` writes it."""
    return "".join(_AS_CHARACTER[byte] for byte in token)


def as_bytes(name: str) -> bytes:
    """The byte string that `tokenizers` writes as `name`.

    Raises:
        ValueError: if it writes none so.
    """
    try:
        return bytes(_AS_BYTE[character] for character in name)
    except KeyError as error:
        raise ValueError(f"{name!r} is no string of bytes") from error


def words(longest: int | None) -> Any:
    """What cuts a text into words, as `tokenizers` has it: by GPT-2's pattern, then by length."""
    tokenizers = import_tokenizers()
    cut = tokenizers.pre_tokenizers
    by_pattern = cut.ByteLevel(add_prefix_space=False, use_regex=True)
    if longest is None:
        return by_pattern
    # Behind the first there is a character for each byte, and none that . does not match.
    by_length = cut.Split(tokenizers.Regex(f".{{1,{longest}}}"), behavior="isolated")
    return cut.Sequence([by_pattern, by_length])


def import_tokenizers(what: str = "tokenizer=bpe", instead: str = WITHOUT_BPE) -> Any:
    """The library. `what` needs it, and `instead` says what does not.

    Raises:
        LabError: if it is not installed, naming the extra that has it.
    """
    # Without it `tokenizers` warns in each process that is forked later.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    return import_extra("tokenizers", "bpe", what, instead)
