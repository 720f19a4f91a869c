"""Standard output, whoever is at its other end."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO


class Output(io.TextIOBase):
    """A text stream that takes whatever is written.

    A character that its encoding lacks is spelled, as Python does on standard error. Once its
    reader is gone (`| head`) or its device is full, the rest is dropped: what is computed goes on.
    """

    def __init__(self, stream: TextIO | None = None):
        """`stream` is where it writes; None: to the standard output of each moment."""
        self._fixed = stream
        self._is_closed = False
        self.problem: str | None = None  # why it was closed, unless its reader had enough

    @property
    def _stream(self) -> Any:
        return self._fixed or getattr(sys.stdout, "rich_proxied_file", sys.stdout)

    @property
    def is_closed(self) -> bool:
        """Whether nobody takes what is written any more."""
        stream = self._stream
        return self._is_closed or stream is None or getattr(stream, "is_closed", False)

    def write(self, text: str) -> int:
        if self.is_closed:
            return len(text)
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                spelled = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
                self._stream.write(spelled)
        except OSError as error:
            self._end(error)
        return len(text)

    def flush(self) -> None:
        if self.is_closed:
            return
        try:
            self._stream.flush()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        self._is_closed = True
        # Windows says EINVAL of a pipe whose reader is gone.
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EINVAL:
            self.problem = f"standard output: {error.strerror or error}"
        # Python would try again at its end, and complain.
        with suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return not self.is_closed and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def buffer(self) -> BinaryIO:
        buffer: BinaryIO = self._stream.buffer
        return buffer


output = Output()  # of this process, whatever stands in sys.stdout's place


@contextmanager
def whole_output() -> Iterator[Output]:
    """Within, whatever is printed goes through an `Output`, also what libraries print."""
    out = Output(sys.stdout or io.StringIO())  # none, if it was closed before this process began
    with redirect_stdout(out):
        try:
            yield out
        finally:
            out.flush()
