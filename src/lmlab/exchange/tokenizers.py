"""Tokenizers as `tokenizer.json`, which Hugging Face's tools read; and nanoGPT's meta.pkl."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lmlab.data.bpe import BPETokenizer, as_bytes, as_characters
from lmlab.data.tokenizer import (
    SINGLE_BYTES,
    ByteTokenizer,
    CharTokenizer,
    GPT2Tokenizer,
    Tokenizer,
)
from lmlab.errors import LabError
from lmlab.files import read_small

TOKENIZER, ABOUT, META = "tokenizer.json", "tokenizer_config.json", "meta.pkl"
END_OF_TEXT = "<|endoftext|>"
MOST = 1 << 26  # bytes
ONE_CHARACTER = {"Regex": r"[\s\S]"}


def written(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer.json of one of the lab's tokenizers: the same ids for the same text.

    Raises:
        LabError: for a tokenizer of somebody else's.
    """
    if isinstance(tokenizer, CharTokenizer):
        vocab = {character: i for i, character in enumerate(tokenizer.vocabulary)}
        # A character that is not in it is an error, for <unk> is not in it either.
        model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
        cut = {"type": "Split", "pattern": ONE_CHARACTER, "behavior": "Isolated", "invert": False}
        return _json(model, cut, {"type": "Fuse"})
    if isinstance(tokenizer, ByteTokenizer):
        return _byte_level([bytes([b]) for b in range(256)], [], in_words=False)
    if isinstance(tokenizer, BPETokenizer):
        tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        return _byte_level(tokens, [(tokens[a], tokens[b]) for a, b in tokenizer.merges])
    if isinstance(tokenizer, GPT2Tokenizer):
        return _byte_level(tokenizer.ranks, _merges(tokenizer.ranks), special=END_OF_TEXT)
    raise LabError(f"the tokenizer {type(tokenizer).__name__} has no form that others read")


def about(block_size: int) -> dict[str, Any]:
    """The tokenizer_config.json beside it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
    }


def read(folder: Path) -> Tokenizer:
    """The lab's equal of the tokenizer in a folder of Hugging Face's.

    Raises:
        LabError: if there is none, or none that makes the same ids.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        return _from_merges(folder)
    try:
        stored = json.loads(read_small(path, MOST))
        model = stored["model"]
        kind, vocab = model.get("type", "BPE"), model["vocab"]
        names = [name for name, _ in sorted(vocab.items(), key=lambda item: item[1])]
        if sorted(vocab.values()) != list(range(len(names))):
            raise ValueError("its ids do not count from 0 on")
        if kind == "WordLevel" and all(len(name) == 1 for name in names):
            return CharTokenizer("".join(names))
        if kind != "BPE":
            raise ValueError(f"its model is {kind}")
        merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        return _of_bytes(names, merges)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LabError(f"{path} is no tokenizer that the lab has an equal of: {error}") from error


def of_nanogpt(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model of nanoGPT's: characters by its meta.pkl, or GPT-2's.

    Raises:
        LabError: if its vocabulary is too small for GPT-2's and there is no meta.pkl.
    """
    path = folder / META
    if not path.is_file():
        if vocab_size < 50257:
            raise LabError(
                f"from={folder}: a vocabulary of {vocab_size} is not GPT-2's; put the {META} of "
                "its data set beside the checkpoint"
            )
        return GPT2Tokenizer.fit([])
    try:
        with path.open("rb") as file:
            characters = _PlainUnpickler(file).load()["itos"]
        return CharTokenizer("".join(characters[i] for i in range(len(characters))))
    except pickle.UnpicklingError as error:
        raise LabError(f"{path} is refused: {error}") from error
    except Exception as error:  # a damaged pickle raises anything
        raise LabError(f"{path} is no {META} of nanoGPT's: {error!r}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Numbers, texts, lists and dicts: whatever asks for a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"loading it would run code in it ({module}.{name})")


def _from_merges(folder: Path) -> Tokenizer:
    """GPT-2's own two files: vocab.json and merges.txt."""
    try:
        vocab = json.loads(read_small(folder / "vocab.json", MOST))
        lines = read_small(folder / "merges.txt", MOST).decode().splitlines()
        merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        return _of_bytes([n for n, _ in sorted(vocab.items(), key=lambda item: item[1])], merges)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise LabError(
            f"{folder} has no tokenizer that can be read: give it its {TOKENIZER}, or vocab.json "
            f"and merges.txt ({error})"
        ) from error


def _of_bytes(names: Sequence[str], merges: Sequence[Sequence[str]]) -> Tokenizer:
    """A byte-level BPE, by the names of its tokens in the order of their ids.

    Raises:
        ValueError: if the lab has no equal of it.
    """
    ends = names[-1:] == [END_OF_TEXT]
    tokens = [as_bytes(name) for name in (names[:-1] if ends else names)]
    if not ends and tokens == SINGLE_BYTES:
        return ByteTokenizer()
    if not ends and tokens[:256] == SINGLE_BYTES:
        ids = {token: i for i, token in enumerate(tokens)}
        found = BPETokenizer([(ids[as_bytes(a)], ids[as_bytes(b)]) for a, b in merges])
        if [found.token_bytes(i) for i in range(found.vocab_size)] == tokens:
            return found
    elif ends and [as_bytes(a) + as_bytes(b) for a, b in merges] == tokens[256:]:
        return GPT2Tokenizer(tokens)
    raise ValueError("its ids are not in the order of its merges")


def _merges(ranks: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The pair that each token was joined from: what the merges before it leave of its bytes."""
    rank_of = {token: i for i, token in enumerate(ranks)}
    found = []
    for rank, token in enumerate(ranks):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [rank_of.get(a + b, rank) for a, b in pairwise(parts)]
            best = min(range(len(pairs)), key=pairs.__getitem__)
            if pairs[best] >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            found.append((parts[0], parts[1]))
    return found


def _byte_level(
    tokens: Sequence[bytes],
    merges: Sequence[tuple[bytes, bytes]],
    in_words: bool = True,
    special: str | None = None,
) -> dict[str, Any]:
    vocab = {as_characters(token): i for i, token in enumerate(tokens)}
    if special is not None:
        vocab[special] = len(tokens)
    named = [[as_characters(a), as_characters(b)] for a, b in merges]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocab, "merges": named}
    return _json(model, {**level, "use_regex": in_words}, {**level, "use_regex": True})


def _json(model: Mapping[str, Any], cut: Mapping[str, Any], join: Mapping[str, Any]) -> Any:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": join,
        "model": model,
    }
