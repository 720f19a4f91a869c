"""What a report leaves in a folder. Only what a report left there is ever replaced or deleted.

A record beside it says what that is: by name, the digest of what was written. A file of that name
with other bytes in it is somebody's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmlab.errors import LabError
from lmlab.files import check_place, lock_at, open_to_read, read_small, remove, write_atomically
from lmlab.sweeps.journal.journal import FOLDER, MULTIRUN

RECORD, LOCK = ".report.json", ".report.lock"
PAGE = "report.html"
LEADERBOARD, LEADERBOARD_CSV, RUNS_CSV = "leaderboard.md", "leaderboard.csv", "runs.csv"
DIFFERENCES_CSV = "differences.csv"
SCALING_CSV, SCALING_JSON = "scaling.csv", "scaling.json"
PLOTS = "plots"
PICTURES, FIT = "pictures", "--fit"  # what a report may be asked for; and "--at …", "--to …"
MOST = 1 << 28  # bytes of a file


def is_of_a_sweep(folder: Path) -> bool:
    """Whether a sweep was begun in a folder, so that its report belongs there."""
    return (folder / FOLDER).is_dir() or (folder / MULTIRUN).is_file()


@dataclass
class Kept:
    """What an earlier report left in a folder. Use `opened`."""

    folder: Path
    asked: frozenset[str] = frozenset()  # PICTURES, FIT, "--at 30s"
    digests: dict[str, list[str]] = field(default_factory=dict)  # by name: whole, or cut short

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Kept]:
        """For one process at a time.

        Raises:
            LabError: if the folder cannot be written to, or its record is damaged.
        """
        try:
            with lock_at(folder / LOCK, folder):
                yield cls.read(folder)
        except OSError as error:
            raise LabError(f"cannot write to {folder}: {error.strerror or error}") from error

    @classmethod
    def read(cls, folder: Path) -> Kept:
        """
        Raises:
            LabError: if the record is damaged.
        """
        path = folder / RECORD
        try:
            record = json.loads(read_small(path, MOST, within=folder))
        except FileNotFoundError:
            return cls(folder)
        except (OSError, ValueError, RecursionError) as error:
            raise LabError(f"{path} cannot be read: {error}") from error
        if not _is_record(record):
            raise LabError(f"{path} is not the record of a report; delete it to begin another")
        is_there = (folder / PAGE).is_file()
        return cls(folder, frozenset(record["asked"] if is_there else ()), record["files"])

    def replace(self, files: Mapping[str, bytes], asked: frozenset[str]) -> list[str]:
        """Put files into the folder, by their names in it, in place of all that is there of an
        earlier report; the names of those that are somebody's own, and stay.

        Raises:
            LabError: if one cannot be written.
        """
        there = {name: self._digest(name) for name in {*files, *self.digests}}
        ours = {name for name, now in there.items() if now and now in self.digests.get(name, ())}
        own = sorted(n for n in files if there[n] is not None and n not in ours)
        # Before the files: where this is cut short, either of the two is ours.
        written = {name: digest(content) for name, content in files.items() if name not in own}
        record = {n: [d for d in (there[n], written[n]) if d is not None] for n in written}
        old = {name: self.digests[name] for name in ours - set(files)}
        self._write_record(asked, record | old)
        for name in written:
            write_atomically(self.folder / name, files[name], parents=True, within=self.folder)
        for name in old:
            remove(self.folder / name, self.folder)
            with suppress(OSError):  # not empty: something else is in it
                for above in (self.folder / name).relative_to(self.folder).parents[:-1]:
                    (self.folder / above).rmdir()
        if old:
            self._write_record(asked, record)
        return own

    def _write_record(self, asked: frozenset[str], files: dict[str, list[str]]) -> None:
        text = json.dumps({"asked": sorted(asked), "files": dict(sorted(files.items()))}, indent=1)
        write_atomically(self.folder / RECORD, text.encode())

    def _digest(self, name: str) -> str | None:
        """Of what is there; None if nothing is, empty if it is no file of this folder."""
        path = self.folder / name
        try:
            check_place(path, self.folder)
            with open_to_read(path, self.folder) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LabError):
            return ""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or record.keys() != {"asked", "files"}:
        return False
    asked, files = record["asked"], record["files"]
    return _are_texts(asked) and isinstance(files, dict) and all(map(_are_texts, files.values()))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def left_alone(names: Sequence[str]) -> str:
    """What to say of files that stay."""
    return f"left as they are, for no report wrote them: {', '.join(names)}"
