"""A terminal for the commands to write to, and what stands on its screen and above it."""

import fcntl
import os
import re
import select
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from forked import TRAIN, processes

ORDER = re.compile(rb"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


class Screen:
    """As much of a terminal as a table drawn anew makes use of. It fails on anything else."""

    def __init__(self, width: int):
        self.width, self.lines, self.row, self.column = width, [""], 0, 0
        self.seen: list[str] = []  # whole screens, as they stood before they were drawn over

    def feed(self, data: bytes) -> None:
        for match in ORDER.finditer(data):
            numbers, order = match[1] or b"", match[2]
            if order == b"m":
                continue
            if order == b"A":
                self.row -= int(numbers or b"1")
                assert self.row >= 0
            elif order == b"K":
                line = self.lines[self.row]
                self.lines[self.row] = "" if numbers == b"2" else line[: self.column]
            elif order is not None:
                raise AssertionError(f"an order that nobody needs: {match[0]!r}")
            elif match[0] == b"\r":
                self.seen.append(self.text)
                self.column = 0
            elif match[0] == b"\n":
                self._down()
            else:
                for character in match[0].decode():
                    self._put(character)

    def _put(self, character: str) -> None:
        if self.column == self.width:
            self.column = 0
            self._down()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        self.lines += [""] * (self.row + 1 - len(self.lines))

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)


class InTerminal:
    """A script in a terminal of its own."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        script: Path = TRAIN,
        size: tuple[int, int] = (100, 30),
    ):
        """`size` is how many columns and lines it has."""
        self.screen = Screen(size[0])
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        whole = {**os.environ, "TERM": "xterm", **env}
        args = (os.ttyname(theirs), str(script), list(words), str(folder), whole)
        self.process = processes.Process(target=_run, args=args)
        self.process.start()
        self._theirs = theirs
        self._half = b""

    def until(self, *texts: str, timeout: float = 120) -> str:
        """Wait until all of these have stood on the screen at once; that screen."""
        end = time.monotonic() + timeout
        while True:
            for screen in (*self.screen.seen, self.screen.text):
                if all(text in screen for text in texts):
                    return screen
            self.screen.seen.clear()
            assert time.monotonic() < end, self.screen.text
            assert self.process.is_alive(), self.screen.text
            self._read(0.1)

    def end(self, status: int, timeout: float = 120) -> str:
        """What is left on the screen once the command has ended."""
        end = time.monotonic() + timeout
        while self.process.is_alive():
            assert time.monotonic() < end, self.screen.text
            self._read(0.1)
        while self._read(0.1):
            pass
        os.close(self._theirs)
        os.close(self._ours)
        assert self.process.exitcode == status, self.screen.text
        return self.screen.text

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        data = self._half + os.read(self._ours, 1 << 16)
        # An order or a character may be cut in two.
        cut = re.search(rb"(\x1b(\[[0-9;?]*)?|[\xc0-\xff][\x80-\xbf]*)$", data)
        whole = cut.start() if cut and len(data) - cut.start() < 4 else len(data)
        self._half = data[whole:]
        self.screen.feed(data[:whole])
        return True


def _run(terminal: str, script: str, words: list[str], folder: str, env: dict[str, str]) -> None:
    import runpy
    import sys

    os.setsid()
    descriptor = os.open(terminal, os.O_RDWR)  # the first that a session opens rules it
    for standard in (0, 1, 2):
        os.dup2(descriptor, standard)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w") for n in (0, 1, 2))
    sys.path[:0] = [str(Path(script).parent), *env.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
