"""Documents for training and for val: which is which, and both as pieces of text."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from lmlab.data.sources import records
from lmlab.data.sources.blocks import BrokenError, Progress
from lmlab.data.tokenising.pieces import END
from lmlab.errors import LabError

PIECE_CHARACTERS = 1 << 20
SPLIT = b"\0\0"  # between train and val in what a checksum is of: no document is empty
Split = Literal["hash", "end"]


class Listener(NamedTuple):
    """Who is told what is read."""

    text: Callable[[bytes], object] = lambda raw: None  # what the sha256 of a corpus is of
    progress: Progress = lambda n_bytes: None
    broken: Callable[[BrokenError], object] = lambda error: None  # what was left out


@dataclass(frozen=True)
class Documents:
    """How files are read that hold documents."""

    field: str = "text"
    column: str = "text"
    split: Split = "hash"
    skip_broken: bool = False

    def of_file(self, path: Path, key: str, listener: Listener) -> Iterator[str]:
        """The documents of a file, which the config names at `key`.

        Raises:
            LabError: where one is broken, unless these are left out.
        """
        name, kind = f"{key}={path}", records.kind_of(path)
        if kind == records.JSONL:
            documents = records.texts_of_lines(path, name, listener.progress, self.field)
        elif kind == records.PARQUET:
            documents = records.texts_of_rows(path, name, listener.progress, self.column)
        else:
            documents = records.text_of_file(path, name, listener.progress)
        for document in documents:
            if isinstance(document, str):
                yield document
            elif self.skip_broken:
                listener.broken(document)
            else:
                raise LabError(f"{document}; corpus.skip_broken=true leaves out what is broken")

    def of_files(self, files: tuple[Path, ...], key: str, listener: Listener) -> Iterator[str]:
        """The documents of several files."""
        for file in files:
            yield from self.of_file(file, key, listener)

    def divided(
        self, files: tuple[Path, ...], val_fraction: float, listener: Listener
    ) -> tuple[Iterator[str], Iterator[str]]:
        """Those to train on, and those of val, to be read in this order.

        By `hash` a document's own text decides, so of two that are alike both are on one side.
        """
        documents = self.of_files(files, "corpus.path", listener)
        if self.split == "end":
            n = sum(
                1 for _ in self.of_files(files, "corpus.path", Listener(progress=listener.progress))
            )
            n_train = int((1 - val_fraction) * n)
            return islice(documents, n_train), documents
        aside: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (closed once read back)

        def train() -> Iterator[str]:
            for document in documents:
                raw = document.encode()
                if is_val(raw, val_fraction):
                    aside.write(raw + END.encode())
                else:
                    yield document

        return train(), _read_back(aside)


def in_pieces(documents: Iterator[str], listener: Listener) -> Iterator[str]:
    """Documents as text, END behind each, about a megabyte at a time."""
    held: list[str] = []
    n_characters = 0
    for document in documents:
        held += (document, END)
        n_characters += len(document) + 1
        if n_characters >= PIECE_CHARACTERS:
            yield _heard("".join(held), listener)
            held, n_characters = [], 0
    if held:
        yield _heard("".join(held), listener)


def _heard(piece: str, listener: Listener) -> str:
    listener.text(piece.encode())
    return piece


def _read_back(aside: BinaryIO) -> Iterator[str]:
    """The documents that were put aside."""
    with aside:
        aside.seek(0)
        rest = b""
        while block := aside.read(records.BLOCK_BYTES):
            *ended, rest = (rest + block).split(END.encode())
            yield from (raw.decode() for raw in ended)


def is_val(raw: bytes, val_fraction: float) -> bool:
    """Whether a document belongs to val, by a hash of its bytes alone."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest()) < val_fraction * 2**64
