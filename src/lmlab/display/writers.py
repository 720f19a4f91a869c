"""torch's writers of event files, into files that are named by `eventfile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import FileWriter, SummaryWriter

from lmlab.display.event_files import Records


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
