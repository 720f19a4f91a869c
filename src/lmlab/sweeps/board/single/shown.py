"""What a run showed while it was trained, by step: the texts and the pictures in its event files.

Only where they stand is kept in mind, so that a long run takes no memory, and what was read once
is not read again. The files may be anybody's: what is no picture is none.
"""

from __future__ import annotations

import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from lmlab.display.for_tensorboard.event_files import CHECKSUM, records_in
from lmlab.display.for_tensorboard.summaries import as_typed
from lmlab.files import open_to_read
from lmlab.runs.directory import EVENTS
from lmlab.sweeps.board.rows import cut

MOST_READ = 1 << 26  # bytes of news of one file at a time
MOST_PLACES = 20_000  # of one run: values of which it is known where they stand
MOST_PICTURE, MOST_EDGE, MOST_PIXELS = 1 << 23, 1 << 14, 1 << 25  # bytes; pixels
MOST_TEXT, MOST_SHOWN = 1 << 20, 20_000  # bytes; characters of it
SETUP = "setup/"  # texts about the run itself
PNG = re.compile(rb"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR(.{4})(.{4})", re.DOTALL)


class Place(NamedTuple):
    """Where an event stands."""

    file: str
    start: int
    end: int


class Progress(NamedTuple):
    """How far a file was read."""

    inode: int = 0
    size: int = 0
    read: int = 0
    has_more: bool = False


class Value(NamedTuple):
    """A text or a picture."""

    kind: str  # "text" or "picture"
    tag: str
    step: int


class Shown:
    """The texts and pictures of one run."""

    def __init__(self, run: Path, folder: Path):
        """Of nothing but files below `folder`, whatever links there are."""
        self._run, self._folder = run, folder
        self._looking = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._files: dict[str, Progress] = {}
        self.places: dict[Value, Place] = {}
        self.is_whole = True  # False: there is more than was read

    def look(self) -> None:
        """See what was added."""
        with self._looking:
            paths = sorted(self._run.glob(f"{EVENTS}*"))
            if any(self._is_another(path) for path in paths):  # the run goes on from earlier
                self._forget()
            self.is_whole = True
            for path in paths:
                with suppress(OSError, ValueError):
                    self._follow(path)

    def _is_another(self, path: Path) -> bool:
        """Whether a file stands in the place of one that was read."""
        before = self._files.get(path.name)
        with suppress(OSError):
            about = path.stat()
            return before is not None and (
                about.st_ino != before.inode or about.st_size < before.size
            )
        return before is not None

    def _follow(self, path: Path) -> None:
        before = self._files.get(path.name, Progress())
        with open_to_read(path, within=self._folder) as file:
            about = os.fstat(file.fileno())
            if about.st_size == before.size and not before.has_more:
                return
            file.seek(before.read)
            content = file.read(MOST_READ)
        end = 0
        for start, end in records_in(content):
            place = Place(path.name, before.read + start, before.read + end)
            self._note(content[start:end], place)
        whole = end + CHECKSUM if end else 0
        has_more = len(content) == MOST_READ and whole > 0
        self.is_whole &= not has_more
        read = before.read + whole
        self._files[path.name] = Progress(about.st_ino, about.st_size, read, has_more)

    def _note(self, data: bytes, place: Place) -> None:
        try:
            event = Event.FromString(data)
        except DecodeError:
            return
        if event.session_log.status == SessionLog.START and event.step:
            # What a run wrote before it went on from an earlier step is not its own any more.
            self.places = {v: p for v, p in self.places.items() if v.step < event.step}
        for value, _ in _values(event):
            if len(self.places) < MOST_PLACES or value in self.places:
                self.places[value] = place

    def steps(self) -> set[int]:
        """At which there is anything but what was said before the first."""
        return {value.step for value in list(self.places) if not value.tag.startswith(SETUP)}

    def at(self, step: int) -> dict[str, Any]:
        """What there is at a step: texts by tag, and pictures as [tag, what changes with it]."""
        values = [(value, place) for value, place in self.places.items() if value.step == step]
        texts = {
            value.tag: cut(self.text(value.tag, step) or "", MOST_SHOWN)
            for value, _ in values
            if value.kind == "text" and not value.tag.startswith(SETUP)
        }
        pictures = [
            [value.tag, f"{self._files[place.file].inode}:{place.start}"]
            for value, place in sorted(values)
            if value.kind == "picture"
        ]
        return {"texts": texts, "pictures": pictures}

    def text(self, tag: str, step: int) -> str | None:
        content = self._content(Value("text", tag, step))
        return None if content is None else as_typed(content.decode("utf-8", errors="replace"))

    def picture(self, tag: str, step: int) -> bytes | None:
        """A PNG that a page can show."""
        return self._content(Value("picture", tag, step))

    def _content(self, wanted: Value) -> bytes | None:
        place = self.places.get(wanted)
        if place is None:
            return None
        try:
            with open_to_read(self._run / place.file, within=self._folder) as file:
                file.seek(place.start)
                event = Event.FromString(file.read(place.end - place.start))
        except (OSError, ValueError, DecodeError):  # it is gone, or another one by now
            return None
        return dict(_values(event)).get(wanted)


def _values(event: Any) -> Iterator[tuple[Value, bytes]]:
    for value in event.summary.value:
        if len(value.tag) > 300 or event.step < 0:
            continue
        if value.HasField("image"):
            if is_picture(value.image.encoded_image_string):
                picture = Value("picture", value.tag, event.step)
                yield picture, value.image.encoded_image_string
        elif value.metadata.plugin_data.plugin_name == "text":
            for text in value.tensor.string_val[:1]:
                if len(text) <= MOST_TEXT:
                    yield Value("text", value.tag, event.step), text


def is_picture(content: bytes) -> bool:
    """Whether it says that it is a PNG, and one that does not fill a browser's memory."""
    header = PNG.match(content)
    if header is None or len(content) > MOST_PICTURE:
        return False
    width, height = (struct.unpack(">I", edge)[0] for edge in header.groups())
    return 0 < width <= MOST_EDGE and 0 < height <= MOST_EDGE and width * height <= MOST_PIXELS
