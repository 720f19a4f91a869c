"""TensorBoard's event files, by names that keep them in order."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import FileWriter, SummaryWriter

PREFIX = "events.out.tfevents."


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


class EventFile(FileWriter):
    """torch's writer over `Records` instead of a file that it names itself.

    TensorBoard reads the files of a folder by name. torch's names tell the second, the process and
    a count without leading zeros; so of a run that is short, or the tenth of its process, the end
    may be read before the beginning, and then what lies between is dropped.
    """

    def __init__(self, path: Path):
        self.event_writer: Any = Records(path)


class CurveWriter(SummaryWriter):
    """A SummaryWriter that writes to `path`, whichever that is at the time."""

    file_writer: Any  # None while closed
    all_writers: Any
    purge_step: int | None

    def __init__(self, path: Path, purge_step: int):
        self.path = path
        super().__init__(str(path.parent), purge_step=purge_step)

    def _get_file_writer(self) -> Any:
        if self.file_writer is None:
            self.file_writer = EventFile(self.path)
            self.all_writers = {self.path.parent: self.file_writer}
            if self.purge_step is not None:
                mark = SessionLog(status=SessionLog.START)
                self.file_writer.add_event(Event(session_log=mark), self.purge_step)
                self.purge_step = None
        return self.file_writer


def next_number(folder: Path) -> int:
    """The number that the next event file of a folder gets."""
    numbers = [path.name.removeprefix(PREFIX).split(".")[0] for path in folder.glob(f"{PREFIX}*")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


def numbered(folder: Path, number: int, suffix: str = "") -> Path:
    """Where an event file is kept: TensorBoard comes to it after those of smaller numbers."""
    return folder / f"{PREFIX}{number:03}{suffix}"
