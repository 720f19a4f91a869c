"""A corpus as ids on disk: tokenised once, in pieces, and mapped into memory ever after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.data import download
from lmlab.data.corpus import Corpus
from lmlab.data.tokenizer import Tokenizer, class_name
from lmlab.errors import LabError
from lmlab.files import atomic_file, write_atomically
from lmlab.sources import code_of_target

FORMAT = 1  # part of every key: raise it when a tokenizer's ids or this layout change

Progress = Callable[[int], None]  # told how many bytes of text were just worked through


@dataclass(frozen=True)
class TokenizedCorpus:
    """The ids of a corpus and the tokenizer they were made with."""

    ids: np.ndarray  # (n,) in the tokenizer's dtype, mapped from the cache
    tokenizer: Tokenizer
    sha256: str  # of the text


def tokenize(
    corpus: Corpus,
    tokenizer_class: type[Tokenizer],
    cache: Path | None = None,
    progress: Progress = lambda n_bytes: None,
    arguments: dict[str, Any] | None = None,
) -> TokenizedCorpus:
    """The ids of `corpus`, from the cache when the same files were tokenised before.

    `arguments` are what the tokenizer's `fit` takes beside the text; they and the code of a class
    that is not ours are part of the key. `progress` is told about every byte of every pass: two for
    a tokenizer that must see the text first, one else.

    Raises:
        LabError: if the text is not UTF-8, or the cache cannot be written.
    """
    folder = (cache or download.cache_dir()) / "tokens"
    arguments, name = arguments or {}, class_name(tokenizer_class)
    own = {"class": name, "arguments": arguments, "code": code_of_target(name)}
    key = f"{FORMAT}:{json.dumps(own, sort_keys=True, default=repr)}:{corpus.identity()}"
    stem = f"{corpus.name}-{tokenizer_class.kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    ids_path, about_path = folder / f"{stem}.bin", folder / f"{stem}.json"

    found = _read(ids_path, about_path)
    if found is not None:
        return found

    def read() -> Iterator[str]:
        return corpus.pieces(on_bytes=lambda raw: progress(len(raw)))

    tokenizer = tokenizer_class.fit(read(), **arguments)
    digest = hashlib.sha256()

    def on_bytes(raw: bytes) -> None:
        digest.update(raw)
        progress(len(raw))

    n_tokens = 0
    with atomic_file(ids_path) as file:  # nothing but ids, in the tokenizer's dtype
        for piece in tokenizer.cut(corpus.pieces(on_bytes)):
            ids = tokenizer.encode(piece)
            file.write(ids.data)
            n_tokens += len(ids)
    # The description is written last: a pair without it does not count.
    about = {"n_tokens": n_tokens, "sha256": digest.hexdigest(), "tokenizer": tokenizer.stored()}
    write_atomically(about_path, json.dumps(about).encode())
    found = _read(ids_path, about_path)
    if found is None:
        raise LabError(f"{ids_path} changed while it was being written; try again")
    return found


def _read(ids_path: Path, about_path: Path) -> TokenizedCorpus | None:
    """What a former call wrote, or None where it is missing or damaged."""
    try:
        about = json.loads(about_path.read_bytes())
        tokenizer = Tokenizer.from_json(about["tokenizer"])
        # Copy-on-write, never written: torch warns about arrays that are read-only.
        ids = np.memmap(ids_path, tokenizer.dtype, mode="c")
        if len(ids) != about["n_tokens"]:
            return None
        return TokenizedCorpus(ids, tokenizer, about["sha256"])
    except (OSError, ValueError, KeyError, TypeError, LabError):
        return None
