"""The bytes of a file, block by block, decompressed where its name says so."""

from __future__ import annotations

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
# Read of a compressed file at a time: what few bytes stand for may be long, and comes at once.
PACKED_BYTES = 1 << 13

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
    return _members(file, name, size, lambda: zlib.decompressobj(wbits=31), zlib.error)


def _unpacked(file: BinaryIO, name: str, size: int) -> Iterator[bytes]:
    zstandard = import_extra("zstandard", "data", name)
    make = zstandard.ZstdDecompressor().decompressobj
    return _members(file, name, size, make, zstandard.ZstdError)


def _members(
    file: BinaryIO, name: str, size: int, make: Callable[[], Any], error: type[Exception]
) -> Iterator[bytes]:
    """What is compressed in a file, of which several parts may follow each other.

    Up to where it is damaged or ends too early, all of it comes.
    """
    member, held, n_held, done = None, [], 0, 0
    reason = None
    try:
        while packed := file.read(PACKED_BYTES):
            while packed:
                member = member or make()
                held.append(member.decompress(packed))
                n_held += len(held[-1])
                packed = member.unused_data if member.eof else b""
                packed = packed if packed.strip(b"\0") else b""  # gzip may be padded
                member = None if member.eof else member
            if n_held >= size:
                yield b"".join(held)
                done += n_held
                held, n_held = [], 0
    except error as damage:
        reason = f"is not compressed as its name says, or damaged: {damage}"
    if n_held:
        yield b"".join(held)
    if reason is None and member is not None:
        reason = f"is cut short: of what it holds, the first {done + n_held:,} bytes are there"
    if reason is not None:
        raise BrokenError(f"{name} {reason}")


def import_extra(library: str, extra: str, what: str, instead: str = "") -> Any:
    """A library of an extra, which `what` needs; `instead` says what does not.

    Raises:
        LabError: if it is not installed.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        needs = f"{what} needs the extra `{extra}`: pip install 'lmlab[{extra}]'"
        raise LabError(f"{needs}; {instead}" if instead else needs) from error
