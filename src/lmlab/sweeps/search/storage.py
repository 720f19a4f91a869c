"""The file that an Optuna study is kept in, which somebody may have damaged."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from lmlab.errors import LabError
from lmlab.files import check_place, lock_at, open_to_read

# What Optuna and SQLAlchemy raise of a file that somebody damaged: Optuna replays the lines of a
# journal without a look at them.
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError),
    *(RecursionError, sqlite3.Error, SQLAlchemyError, StorageInternalError),
)


class JournalLock(JournalFileOpenLock):
    """The operating system's lock: Optuna's own outlives a killed process by half a minute."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = lock_at(path.with_name(f"{path.name}.lock"), path.parent)

    def acquire(self) -> bool:
        self.lock.acquire()
        with self.path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                # A full disk cut the last line off. Nothing could be read after it.
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self.lock.release()


def open_storage(path: Path) -> BaseStorage:
    """The storage in a file: SQLite's if it is called *.db, else a journal."""
    if path.suffix == ".db":
        return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    return JournalStorage(JournalFileBackend(str(path), JournalLock(path)))


@contextmanager
def storage_in(path: Path) -> Iterator[BaseStorage]:
    """The storage in a file that somebody may have damaged, while a study is looked for in it.

    Raises:
        LabError: if it is something else, or cannot be read. It is then left as it is.
    """
    check_place(path, path.parent)
    try:
        if path.exists() and path.stat().st_size:
            (_check_database if path.suffix == ".db" else _check_journal)(path)
        yield open_storage(path)
    except UNREADABLE as error:
        raise LabError(
            f"{path} cannot be used as a study ({reason(error)}); move it away, or give another "
            "sweep.name"
        ) from error


def reason(error: Exception) -> str:
    """The first cause, which says most, on one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return str(text) if isinstance(error, OSError | sqlite3.Error) else f"damaged: {text}"


def _check_journal(path: Path) -> None:
    """Whether a file is a journal, but for a last line that was cut off: Optuna would write on at
    the end of any file.

    Raises:
        OSError, ValueError: if it is not.
    """
    with open_to_read(path, path.parent) as file:
        for number, line in enumerate(file, 1):
            if not (_is_entry(line) if line.endswith(b"\n") else line.startswith(b"{")):
                raise ValueError(f"line {number} is none of a study's")


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and "op_code" in entry


def _check_database(path: Path) -> None:
    """Whether a database is Optuna's, which would put its tables into any.

    Raises:
        sqlite3.Error: if it is no database.
        ValueError: if it is another.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
    if names and not {"studies", "trials", "version_info"} <= set(names):
        raise ValueError("it is the database of something else")
