"""A table at the foot of a terminal, drawn anew, and above it all that is printed meanwhile."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from typing import Any, BinaryIO

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.live import Live
from rich.text import Text

from lmlab.console import console

OUT, ERR = 1, 2  # the descriptors that every process has


def shows_tables() -> bool:
    """Whether standard output is a terminal in which a table can be drawn anew."""
    try:
        is_ours = sys.stdout.fileno() == OUT and os.isatty(OUT)
    except (AttributeError, OSError, ValueError):  # there is none
        return False
    draws = console.is_terminal and not console.is_dumb_terminal
    return is_ours and draws and hasattr(os, "pread")


class _Terminal(Console):
    """The cursor stays as it is: a process that is killed would leave it hidden."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class LiveTable:
    """The table, and what is printed above it. Use `live_table`."""

    def __init__(self, file: TextIOWrapper, printed: BinaryIO | None):
        self._console = _Terminal(file=file, highlight=False)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._printed, self._read = printed, 0
        self._half = b""  # a line that has not ended yet

    def draw(self, make: Callable[[int, int], RenderableType]) -> None:
        """Draw what `make` makes of the width and the height of the terminal, and print above it
        what has been printed since the last time."""
        with suppress(OSError):  # the terminal is gone; what it shows does not end a sweep
            size = os.get_terminal_size(self._console.file.fileno())
            width, height = size.columns or 80, size.lines or 24  # nobody has said how large it is
            self._console.size = ConsoleDimensions(width, height)
            self._print_printed()
            self._live.update(make(width, height), refresh=True)

    def say(self, text: str) -> None:
        """Print a line above the table."""
        with suppress(OSError):
            self._console.print(text, markup=False, soft_wrap=True)

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        """Take the table away; what was printed until now stays."""
        with suppress(OSError):
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            self._print_printed(is_last=True)
            self._live.stop()

    def _print_printed(self, is_last: bool = False) -> None:
        """What any process of this launch has printed, a line at a time."""
        if self._printed is None:
            return
        while chunk := os.pread(self._printed.fileno(), 1 << 16, self._read):
            self._read += len(chunk)
            *lines, self._half = (self._half + chunk).split(b"\n")
            for line in lines:
                self._print(line)
        if is_last and self._half:
            self._print(self._half)

    def _print(self, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace").rstrip("\r")
        # A bar that was drawn over itself is as it was drawn last.
        self._console.print(Text.from_ansi(text.rpartition("\r")[2]), soft_wrap=True)


@contextmanager
def live_table(captures: bool) -> Iterator[LiveTable]:
    """A table until the block ends. `captures`: what this process and those it starts write to the
    terminal is printed above it, else they must not write.

    It goes through a file that has no name, not a pipe: a job that outlives this process can still
    write to it.
    """
    with ExitStack() as stack:
        terminal = os.fdopen(os.dup(OUT), "w", encoding=console.encoding, errors="backslashreplace")
        stack.callback(_close, terminal)
        printed: Any = None
        if captures:
            printed = stack.enter_context(tempfile.TemporaryFile())
            for descriptor, stream in ((OUT, sys.stdout), (ERR, sys.stderr)):
                if os.isatty(descriptor):
                    stack.enter_context(_led_to(printed.fileno(), descriptor, stream))
        table = LiveTable(terminal, printed)
        table.start()
        stack.callback(table.stop)
        yield table


def _close(file: TextIOWrapper) -> None:
    with suppress(OSError):
        file.close()


@contextmanager
def _led_to(target: int, descriptor: int, stream: Any) -> Iterator[None]:
    """Lead a descriptor elsewhere, until the block ends."""
    stream.flush()
    before = os.dup(descriptor)
    os.dup2(target, descriptor)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(before, descriptor)
        os.close(before)
