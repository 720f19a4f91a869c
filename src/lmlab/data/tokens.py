"""A corpus as ids on disk: tokenised once, in pieces, and mapped into memory ever after."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.config.build import part, unmade
from lmlab.config.own_code import code_of_target
from lmlab.config.schema import Train
from lmlab.config.targets import class_name
from lmlab.console import bytes_progress, say
from lmlab.data.corpus import Corpus
from lmlab.data.ids import Ids
from lmlab.data.prepared import Prepared
from lmlab.data.sources import download
from lmlab.data.sources.blocks import Progress
from lmlab.data.tokenising.encoding import TextOf, check_made, write
from lmlab.data.tokenising.unfinished import Unfinished, one_at_a_time
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.files import write_atomically

FORMAT = 3  # part of every key: raise it when a tokenizer's ids or this layout change

# Ids of up to so many bytes are compared with their checksum whenever they are opened, which takes
# 0.1 s; larger files only if they were touched since they were last compared.
ALWAYS_CHECKED = 1 << 28  # bytes
# What is kept about ids: crc32 is their checksum; n_train is there if the train split ends at a
# character or a document; and `left_out` says which documents were broken.
ABOUT = ("n_tokens", "sha256", "tokenizer", "crc32", "n_train", "left_out")


@dataclass(frozen=True)
class TokenizedCorpus:
    """The ids of a corpus and the tokenizer they were made with."""

    ids: Ids  # in the tokenizer's dtype, mapped from disk; the train split first
    n_train: int  # ids of the train split
    tokenizer: Tokenizer
    sha256: str  # of the text
    left_out: str | None = None  # which documents were broken

    @property
    def train(self) -> Ids:
        return self.ids[: self.n_train]

    @property
    def val(self) -> Ids:
        return self.ids[self.n_train :]


def text_of(config: Train, fitted: Tokenizer | None = None) -> TokenizedCorpus:
    """The corpus of a config, tokenised; with a bar where that takes long.

    `fitted` is the tokenizer of a run that this one begins from: ids must mean the same.

    Raises:
        LabError: if it is of another kind than the config's, or does not know the text.
    """
    kind, arguments = tokenizer_of(config)
    if fitted is not None and type(fitted) is not kind:
        raise LabError(f"from: the parent has the tokenizer {fitted.kind}, so this has it too")
    corpus: Corpus = part(config.corpus, "corpus", Corpus)
    for file in (*corpus.files, *corpus.val_files):
        if not file.is_file():
            raise LabError(
                f"corpus: {config.corpus['_target_']} names {file}, and there is no such file; "
                "a text that has moved is given by corpus.<key>=…"
            )
    if isinstance(corpus, Prepared):
        tokenizer = fitted or corpus.tokenizer(kind, arguments)
        check_made(tokenizer, class_name(kind))
        ids, n_train, sha256 = corpus.ids(tokenizer.vocab_size, config.data.val_fraction)
        return TokenizedCorpus(ids, n_train, tokenizer, sha256)
    if fitted is not None and corpus.documents and fitted.end_of_text is None:
        fitted = _with_end_of_text(fitted)
    with bytes_progress(f"tokenising {corpus.name}", corpus.n_bytes * kind.passes) as progress:
        text = tokenize(
            corpus,
            kind,
            progress=progress,
            arguments=arguments,
            fitted=fitted,
            val_fraction=config.data.val_fraction,
        )
    if text.left_out:
        say(text.left_out)
    return text


def _with_end_of_text(fitted: Tokenizer) -> Tokenizer:
    """A parent's tokenizer for documents, if that leaves its ids and their number as they are."""
    ended = fitted.with_end_of_text()
    if ended.vocab_size != fitted.vocab_size:
        raise LabError(
            f"from: the parent's tokenizer {fitted.kind} has no end-of-text id, and this corpus is "
            "of documents; give a parent that was trained on documents"
        )
    return ended


def tokenizer_of(config: Train) -> tuple[type[Tokenizer], dict[str, Any]]:
    """The tokenizer's class, and what its `fit` is given beside the text."""
    unfitted = unmade(config.tokenizer, "tokenizer", Tokenizer)
    kind: Any = unfitted.func
    arguments = unfitted.keywords
    target = config.tokenizer["_target_"]
    if not (isinstance(kind, type) and issubclass(kind, Tokenizer)):
        raise LabError(f"tokenizer._target_={target}: not a subclass of Tokenizer")
    if lacking := sorted(kind.__abstractmethods__):
        has_to = "; ".join(
            f"{name}: {(inspect.getdoc(getattr(Tokenizer, name)) or '').splitlines()[0]}"
            for name in lacking
        )
        raise LabError(f"tokenizer: {target} lacks {', '.join(lacking)} ({has_to})")
    if not isinstance(getattr(kind, "kind", None), str):
        raise LabError(f"tokenizer: {target} lacks kind, a text for the names of files")
    try:
        inspect.signature(kind.fit).bind([], **arguments)
    except TypeError as error:
        raise LabError(f"tokenizer: {target}.fit does not take these arguments: {error}") from error
    return kind, arguments


def tokenize(
    corpus: Corpus,
    tokenizer_class: type[Tokenizer],
    cache: Path | None = None,
    progress: Progress = lambda n_bytes: None,
    arguments: dict[str, Any] | None = None,
    fitted: Tokenizer | None = None,
    val_fraction: float = 0.1,
) -> TokenizedCorpus:
    """The ids of `corpus`, from the cache when the same files were tokenised before.

    `arguments` are what the tokenizer's `fit` takes beside the text; they and the code of a class
    that is not ours are part of the key. A tokenizer that was `fitted` on another text is used as
    it is. `progress` is given every byte of every pass.

    A class with `fitted_on_train` sees no more than the train split of a corpus that knows it, of
    others the first int((1 - val_fraction) * n) characters. No token crosses their end: val is the
    same text whatever was learnt, and the same as that of a tokenizer with an id per character.
    Of other classes and corpora the train split is the first int((1 - val_fraction) * n) ids.

    Where this takes long, a process that is killed leaves what it has done, and the next goes on.

    Raises:
        LabError: if the text is not UTF-8, or the cache cannot be written.
    """
    folder = (cache or download.cache_dir()) / "tokens"
    arguments, name = arguments or {}, class_name(tokenizer_class)
    own: dict[str, Any] = {"class": name, "arguments": arguments, "code": code_of_target(name)}
    if fitted is not None:
        own["fitted"] = fitted.stored()
    if tokenizer_class.fitted_on_train or corpus.documents:
        own["val_fraction"] = val_fraction
    most = tokenizer_class.learns_from
    if most is not None and corpus.n_bytes > most:
        own["learns_from"] = most
    identity = corpus.identity()
    key = f"{FORMAT}:{json.dumps(own, sort_keys=True, default=repr)}:{identity}"
    stem = f"{corpus.name}-{tokenizer_class.kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    ids_path, about_path = folder / f"{stem}.bin", folder / f"{stem}.json"

    def read() -> TokenizedCorpus | None:
        return _read(ids_path, about_path, tokenizer_class, val_fraction)

    if (cached := read()) is not None:
        return cached
    text = TextOf(corpus, val_fraction, progress, tokenizer_class)
    with one_at_a_time(ids_path):
        if (cached := read()) is not None:  # another process was faster
            return cached
        unfinished = Unfinished(ids_path)
        noted = unfinished.noted or {}
        if noted:
            there = f"{unfinished.n_bytes / 1e6:,.0f} MB of ids"
            say(f"tokenising {corpus.name} goes on: {there} are there already")
            progress(corpus.n_bytes * (tokenizer_class.passes - 1))
            text.n_first = noted["n_first"]
            tokenizer = Tokenizer.from_json(noted["tokenizer"], tokenizer_class)
        else:
            tokenizer = fitted or text.fit(arguments)
        with unfinished:  # nothing but ids, in the tokenizer's dtype
            about = write(text, tokenizer, unfinished)
            if not about["n_tokens"]:
                raise LabError(
                    f"corpus: no document, and no text, is in the files of {corpus.name}"
                )
            if corpus.identity() != identity:
                raise LabError("corpus: its files changed while they were tokenised; try again")
        # The description is written last: a pair without it does not count.
        _describe(about_path, about, _state(ids_path))
        if (written := read()) is None:
            raise LabError(f"{ids_path} changed while it was being written; try again")
    return written


def _read(
    ids_path: Path, about_path: Path, tokenizer_class: type[Tokenizer], val_fraction: float
) -> TokenizedCorpus | None:
    """What a former call wrote, or None where it is missing or damaged."""
    try:
        described = json.loads(about_path.read_bytes())
        about = {key: described[key] for key in ABOUT if key in described}
        if described["about_crc32"] != _crc32_of(about):
            return None
        tokenizer = Tokenizer.from_json(about["tokenizer"], tokenizer_class)
        state = _state(ids_path)
        ids = np.memmap(ids_path, tokenizer.dtype, mode="r")
        if len(ids) != about["n_tokens"]:
            return None
        touched = state != described["checked"]
        if touched or ids.nbytes <= ALWAYS_CHECKED:
            if zlib.crc32(ids.data) != about["crc32"]:
                return None
            if touched:
                with suppress(LabError):  # the cache may be read-only
                    _describe(about_path, about, state)
        n_train = about.get("n_train", int((1 - val_fraction) * len(ids)))
        more = about["sha256"], about.get("left_out")
        return TokenizedCorpus(Ids(ids), n_train, tokenizer, *more)
    except (OSError, ValueError, KeyError, TypeError, LabError):
        return None


def _describe(about_path: Path, about: dict[str, Any], checked: list[int]) -> None:
    """Write what the ids are, with a checksum of its own, and the state they were compared in."""
    described = {**about, "about_crc32": _crc32_of(about), "checked": checked}
    write_atomically(about_path, json.dumps(described).encode())


def _crc32_of(about: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _state(path: Path) -> list[int]:
    """What changes when a file is written to, copied or replaced; setting its times changes it."""
    stat = path.stat()
    # On Windows ctime is when the file was made.
    changed = stat.st_mtime_ns if os.name == "nt" else stat.st_ctime_ns
    return [stat.st_ino, stat.st_size, changed]
