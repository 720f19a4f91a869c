"""TensorBoard's event files, by names that keep them in order; written without torch.

TensorBoard reads the files of a folder by name. torch's names tell the second, the process and a
count without leading zeros; so of a run that is short, or the tenth of its process, the end may be
read before the beginning, and then what lies between is dropped.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event

from lmlab.display.for_tensorboard import summaries
from lmlab.files import open_to_append, open_to_read, remove, write_atomically
from lmlab.runs.directory import EVENTS

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

PREFIX = EVENTS
BEGIN, END = ".begin", ".end"  # how the files of a run's beginning and of its end are named
LOGGER = "lmlab.display.loggers.EventFiles"
LENGTH, CHECKSUM = 12, 4  # bytes before and behind the data of a record: see `record`
NUMBERED = re.compile(re.escape(PREFIX) + r"\d{3,}(\.begin|\.end)?")  # see `numbered`


class Records:
    """What is written to one event file, appended to if it is there already.

    TensorBoard's own writer computes checksums in Python, which takes longer than drawing a
    picture.
    """

    def __init__(self, path: Path):
        self.path, self._file = path, open_to_append(path, path.parent)
        if not self._file.tell():
            self.add_event(first_event())

    def add_event(self, event: Event) -> None:
        self._file.write(record(event))

    def get_logdir(self) -> str:
        return str(self.path.parent)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def first_event() -> Event:
    """The first event of a file."""
    return Event(wall_time=time.time(), file_version="brain.Event:2")


def record(event: Event) -> bytes:
    """An event as it stands in a file: a length, its checksum, the data, their checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def records_in(content: bytes) -> Iterator[tuple[int, int]]:
    """Where the data of each record begins and ends, up to one that is cut off."""
    at = LENGTH
    while at <= len(content):
        (length,) = struct.unpack_from("<Q", content, at - LENGTH)
        if at + length + CHECKSUM > len(content):
            break
        yield at, at + length
        at += length + CHECKSUM + LENGTH


def _checksum(data: bytes) -> bytes:
    """CRC-32C, masked as TFRecord has it (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def forget_after(folder: Path, step: int) -> None:
    """Leave out of a run's event files what was logged at later steps, and what a kill has cut off.

    TensorBoard itself leaves them out, where a run that goes on says so. Others that read event
    files do so for curves, but not for texts.
    """
    for path in folder.glob(f"{PREFIX}*"):
        if NUMBERED.fullmatch(path.name):
            _forget_after(path, step)


def _forget_after(path: Path, step: int) -> None:
    with open_to_read(path, within=path.parent) as file:
        content = file.read()
    kept = [
        content[start - LENGTH : end + CHECKSUM]
        for start, end in records_in(content)
        if Event.FromString(content[start:end]).step <= step
    ]
    if (left := b"".join(kept)) != content:
        write_atomically(path, left, within=path.parent)


def next_number(folder: Path) -> int:
    """The number that the next event file of a folder gets."""
    numbers = [path.name.removeprefix(PREFIX).split(".")[0] for path in folder.glob(f"{PREFIX}*")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


def numbered(folder: Path, number: int, suffix: str = "") -> Path:
    """Where an event file is kept: TensorBoard comes to it after those of smaller numbers."""
    return folder / f"{PREFIX}{number:03}{suffix}"


def forget(folder: Path, *suffixes: str) -> None:
    """Delete the event files that a run wrote, those with these suffixes if any are given; others'
    event files stay.

    Raises:
        LabError: if one cannot be deleted.
    """
    for path in folder.glob(f"{PREFIX}*"):
        if NUMBERED.fullmatch(path.name) and (not suffixes or path.suffix in suffixes):
            remove(path, folder)


def write_summaries(path: Path, summaries: Iterable[Summary]) -> None:
    """Write summaries of step 0, in a file of their own."""
    records = Records(path)
    for summary in summaries:
        records.add_event(Event(wall_time=time.time(), step=0, summary=summary))
    records.close()


def show_refused(folder: Path, config: dict[str, Any], reason: str, started: str) -> None:
    """Give a run that failed before its first step a row in the HParams table, unless it has one.

    `config` may be what was refused; `started` is an ISO time. A later start of the run replaces
    both files.

    Raises:
        LabError, OSError: if they cannot be written.
    """
    if not _has_event_files(config) or any(folder.glob(f"{PREFIX}*{BEGIN}")):
        return
    number = next_number(folder)
    refused = summaries.refused(config, reason, started)
    write_summaries(numbered(folder, number, BEGIN), refused)
    write_summaries(numbered(folder, number, END), [summaries.ending("failed")])


def show_killed(folder: Path) -> None:
    """Mark the row of a run that was killed, if it has one, as failed.

    Raises:
        LabError, OSError: if it cannot be written.
    """
    if any(folder.glob(f"{PREFIX}*{BEGIN}")) and not any(folder.glob(f"{PREFIX}*{END}")):
        end = numbered(folder, next_number(folder) - 1, END)
        write_summaries(end, [summaries.ending("killed")])


def _has_event_files(config: dict[str, Any]) -> bool:
    """Whether a config, which may be nonsense, has event files written."""
    loggers = config.get("logger")
    if not isinstance(loggers, dict):
        return False
    targets = [node.get("_target_") for node in loggers.values() if isinstance(node, dict)]
    return LOGGER in targets or loggers.get("tensorboard") is True
