"""The bytes of a file, block by block, decompressed where its name says so."""

from __future__ import annotations

import gzip
import importlib
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lmlab.errors import LabError

GZIP, ZSTANDARD = ".gz", ".zst"
COMPRESSED = (GZIP, ZSTANDARD)
# Read of a .zst at a time: what a few bytes stand for may be long, and comes at once.
ZSTANDARD_BYTES = 1 << 13
NEEDS_DATA = "needs the extra `data`: pip install 'lmlab[data]'"

Progress = Callable[[int], None]  # given the number of bytes of a file just worked through


class BrokenError(LabError):
    """A record, or the rest of a file, that is no text: corpus.skip_broken=true leaves it out."""


def blocks(path: Path, name: str, progress: Progress, size: int) -> Iterator[bytes]:
    """What a file holds, in blocks of about `size` bytes.

    `name` is the key and the value that named it, for errors; `progress` is told of the bytes of
    the file itself.

    Raises:
        BrokenError: where a compressed file is cut short or damaged, behind its last whole block.
        LabError: if it cannot be read, or changes meanwhile.
    """
    with unchanged(path, name) as file:
        done = 0
        read = {GZIP: _unzipped, ZSTANDARD: _unpacked}.get(path.suffix, _plain)
        for block in read(file, name, size):
            yield block
            at = file.tell()
            progress(at - done)
            done = at


@contextmanager
def unchanged(path: Path, name: str) -> Iterator[BinaryIO]:
    """A file to read, which must be the same at the end of the block.

    Raises:
        LabError: if it cannot be opened or read, or somebody wrote to it.
    """
    try:
        with path.open("rb") as file:
            before = _state(file)
            try:
                yield file
            except BrokenError:
                _check_state(file, before, name)
                raise
            _check_state(file, before, name)
    except OSError as error:
        raise LabError(f"{name} cannot be read: {error.strerror or error}") from error


def _state(file: BinaryIO) -> tuple[int, int]:
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns


def _check_state(file: BinaryIO, before: tuple[int, int], name: str) -> None:
    if _state(file) != before:
        raise LabError(f"{name} changed while it was read; try again once it is written")


def _plain(file: BinaryIO, name: str, size: int) -> Iterator[bytes]:
    while block := file.read(size):
        yield block


def _unzipped(file: BinaryIO, name: str, size: int) -> Iterator[bytes]:
    done = 0
    try:
        with gzip.GzipFile(fileobj=file) as unzipped:
            while block := unzipped.read(size):
                yield block
                done += len(block)
    except EOFError as error:
        raise _cut_short(name, done) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BrokenError(f"{name} is no gzip file, or damaged: {error}") from error


def _unpacked(file: BinaryIO, name: str, size: int) -> Iterator[bytes]:
    zstandard = import_extra("zstandard", name)
    decompressor = zstandard.ZstdDecompressor()
    frame, kept, n_kept, done = None, [], 0, 0
    try:
        while packed := file.read(ZSTANDARD_BYTES):
            while packed:
                frame = frame or decompressor.decompressobj()
                kept.append(frame.decompress(packed))
                n_kept += len(kept[-1])
                packed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame  # one may follow another
            if n_kept >= size:
                yield b"".join(kept)
                done += n_kept
                kept, n_kept = [], 0
    except zstandard.ZstdError as error:
        raise BrokenError(f"{name} is no zstandard file, or damaged: {error}") from error
    if n_kept:
        yield b"".join(kept)
    if frame is not None:
        raise _cut_short(name, done + n_kept)


def _cut_short(name: str, done: int) -> BrokenError:
    return BrokenError(f"{name} is cut short: it ends within what follows its first {done:,} bytes")


def import_extra(library: str, name: str) -> Any:
    """A library of the extra `data`.

    Raises:
        LabError: if it is not installed.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise LabError(f"{name} {NEEDS_DATA}") from error
