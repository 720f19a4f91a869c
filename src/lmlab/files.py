"""Files that are whole or not there, and reading small ones that somebody may have damaged."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lmlab.errors import LabError

DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file, to Windows


def path_name(text: str) -> str:
    """`text` as a file's name on any file system: plain characters, and never too many."""
    name = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", text).strip("-.")
    if DEVICE.fullmatch(name):
        name = f"_{name}"
    if len(name) > 120:
        name = f"{name[:111]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


# What a killed write leaves: .run.json.1f0a93c2
UNFINISHED = re.compile(r"\..+\.(ckpt|json|yaml|csv|txt|tsv|pbtxt|bin)\.[a-z0-9_]{8}")


@contextmanager
def atomic_file(path: Path, parents: bool = False) -> Iterator[BinaryIO]:
    """A file to write that appears at `path`, synced to disk, only when the block ends well.

    Its folder must be there, unless `parents` are to be made: a run whose directory was moved away
    is not begun anew.

    Raises:
        LabError: if it cannot be written (read-only folder, full disk); nothing is left behind.
    """
    temporary = _temporary(path)
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # "x" leaves the permissions to the umask, which tempfile does not.
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _replace(temporary, path)  # once it is closed: Windows moves no open file
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror or error}") from error


def _replace(temporary: Path, path: Path) -> None:
    """Put a file in the place of another; Windows refuses while somebody reads that one."""
    for seconds in (0.01, 0.1, 1.0) if os.name == "nt" else ():
        with suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(seconds)
    temporary.replace(path)


def write_atomically(path: Path, content: bytes | memoryview, parents: bool = False) -> None:
    """Put `content` at `path`: a reader finds the old file or the whole new one, never a part."""
    with atomic_file(path, parents) as file:
        file.write(content)


def link_or_copy(source: Path, path: Path) -> None:
    """Put a file that is only ever replaced at `path`, too: by another name for it, or by a copy
    where the file system has only one name for a file.

    Raises:
        LabError: if it cannot be written.
    """
    temporary = _temporary(path)
    try:
        os.link(source, temporary)
    except OSError:
        write_atomically(path, source.read_bytes())
        return
    try:
        _replace(temporary, path)
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is still there if both were one file before
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def remove_unfinished(folder: Path, older_than: float = 0.0) -> None:
    """Delete what killed writes left in a folder, if nobody has touched it for so many seconds."""
    with suppress(OSError):  # a read-only disk, or another process that does the same
        for path in folder.glob(".*"):
            if not UNFINISHED.fullmatch(path.name) or not path.is_file():
                continue
            if time.time() - path.stat().st_mtime >= older_than:
                path.unlink(missing_ok=True)


def read_small(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is larger, or no regular file. A pipe is not opened: reading it may wait
            for ever.
    """
    check_regular(path)
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"it is {size:,} bytes long, and at most {most:,} are expected")
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Whether a file may be opened without waiting for anybody.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is a pipe, a device, a socket or a folder.
    """
    if not path.is_file():
        path.stat()  # raises, with the reason, if there is nothing
        raise ValueError("it is no regular file")
