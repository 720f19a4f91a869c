"""Ids on their way to a file, which outlive the process that writes them."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import numpy as np

from lmlab.console import say
from lmlab.errors import LabError
from lmlab.files import remove_unfinished, write_atomically

KEPT_EVERY = 15.0  # seconds: what a process that is killed has to do again
A_DAY, A_WEEK = 86_400.0, 7 * 86_400.0  # seconds
AT_ONCE = 1 << 24  # bytes read at a time


class Unfinished:
    """A file of ids that is being written, in the place of which there is nothing before the end.

    From time to time what there is of it is noted, so that after a kill another process goes on
    there. What failed, or was stopped before that, leaves nothing behind.
    """

    def __init__(self, path: Path):
        self.path = path
        self.part = path.with_name(f".{path.name}.part")
        self.note = path.with_name(f".{path.name}.part.json")
        self.n_bytes, self.crc32 = 0, 0
        self.noted = self._noted()
        self._due = time.monotonic() + KEPT_EVERY

    def _noted(self) -> dict[str, Any] | None:
        """What was noted when the file was as it is now; None if there is no such thing."""
        try:
            noted: dict[str, Any] = json.loads(self.note.read_bytes())
            n_bytes, crc32 = noted["n_bytes"], 0
            with self.part.open("rb") as file:
                for done in range(0, n_bytes, AT_ONCE):
                    crc32 = zlib.crc32(file.read(min(AT_ONCE, n_bytes - done)), crc32)
            if crc32 != noted["crc32"]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self.n_bytes, self.crc32 = n_bytes, crc32
        return noted

    def __enter__(self) -> Unfinished:
        with self._errors_named():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_old()
            self._file = self.part.open("r+b" if self.noted else "wb")
            self._file.truncate(self.n_bytes)
            self._file.seek(self.n_bytes)
        return self

    def write(self, ids: np.ndarray) -> None:
        with self._errors_named():
            self._file.write(ids.data)
        self.crc32 = zlib.crc32(ids.data, self.crc32)
        self.n_bytes += ids.nbytes

    @property
    def is_due(self) -> bool:
        """Whether it is some time ago that something was noted."""
        return time.monotonic() >= self._due

    def keep(self, state: dict[str, Any]) -> None:
        """Note `state`: how to go on behind what is written so far."""
        with self._errors_named():
            self._file.flush()
            os.fsync(self._file.fileno())
        self.noted = {**state, "n_bytes": self.n_bytes, "crc32": self.crc32}
        write_atomically(self.note, json.dumps(self.noted).encode())
        self._due = time.monotonic() + KEPT_EVERY

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._errors_named():
            try:
                if error is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            finally:
                self._file.close()
            if error is None:
                self.part.replace(self.path)
        if error is None or isinstance(error, LabError) or self.noted is None:
            with suppress(OSError):
                self.part.unlink(missing_ok=True)
                self.note.unlink(missing_ok=True)

    def _remove_old(self) -> None:
        """What killed processes left, and nobody came back for."""
        remove_unfinished(self.path.parent, older_than=A_DAY)
        for path in self.path.parent.glob(".*.part*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > A_WEEK:
                    path.unlink()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LabError(f"cannot write {self.path}: {error.strerror or error}") from error


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Within, no other process is here for the same file: it waits, and says so.

    Raises:
        LabError: if the folder of `path` cannot be written to.
    """
    place = path.with_name(f".{path.name}.lock")
    lock = filelock.FileLock(place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"another process is making {path.name}: waiting for it")
            lock.acquire()
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        place.unlink(
            missing_ok=True
        )  # those who wait for it look at what was made before they make it
        lock.release()
