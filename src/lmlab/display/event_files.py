"""TensorBoard's event files, by names that keep them in order; written without torch."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event

from lmlab.files import write_atomically

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

PREFIX = "events.out.tfevents."
BEGIN, END = ".begin", ".end"  # how the files of a run's beginning and of its end are named


class Records:
    """What is written to one event file, appended to if it is there already.

    A record is a length, its checksum, the data, their checksum. TensorBoard's own writer computes
    the checksums in Python, which takes longer than drawing a picture.
    """

    def __init__(self, path: Path):
        self.path, self._file = path, path.open("ab")
        if not self._file.tell():
            self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_event(self, event: Event) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))

    def get_logdir(self) -> str:
        return str(self.path.parent)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _checksum(data: bytes) -> bytes:
    """CRC-32C, masked as TFRecord has it (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def forget_after(path: Path, step: int) -> None:
    """Leave out the events of later steps, and what a kill has cut off at the end.

    TensorBoard itself leaves them out, where a run that goes on says so. Others that read event
    files do so for curves, but not for texts.
    """
    content, kept, at = path.read_bytes(), [], 0
    while at + 8 <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        data, end = at + 12, at + length + 16
        if end > len(content):
            break
        if Event.FromString(content[data : data + length]).step <= step:
            kept.append(content[at:end])
        at = end
    if (left := b"".join(kept)) != content:
        write_atomically(path, left)


def next_number(folder: Path) -> int:
    """The number that the next event file of a folder gets."""
    numbers = [path.name.removeprefix(PREFIX).split(".")[0] for path in folder.glob(f"{PREFIX}*")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


def numbered(folder: Path, number: int, suffix: str = "") -> Path:
    """Where an event file is kept: TensorBoard comes to it after those of smaller numbers."""
    return folder / f"{PREFIX}{number:03}{suffix}"


def write(path: Path, summaries: Iterable[Summary]) -> None:
    """Write summaries of step 0, in a file of their own."""
    records = Records(path)
    for summary in summaries:
        records.add_event(Event(wall_time=time.time(), step=0, summary=summary))
    records.close()
