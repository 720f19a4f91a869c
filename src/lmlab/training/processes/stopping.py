"""SIGINT and SIGTERM: finish the optimizer step, write a checkpoint, then go."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Training was asked to stop, and its state is on disk. Not an error, so no Exception."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.signum, self.step = signum, step


class Pruned(BaseException):
    """Training was ended early, because it does not look worth going on with."""

    def __init__(self, step: int, why: str):
        super().__init__(f"pruned at step {step}: {why}")
        self.step = step


class Stop:
    """Whether somebody has asked training to stop."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            # Asked twice: end at once. What is on disk is whole; \x1b[?25h shows the cursor again.
            sys.stdout.write("\x1b[?25h\n" if sys.stdout.isatty() else "")
            sys.stdout.flush()
            os._exit(128 + signum)
        self.signum = signum

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals, and give them back. In a thread there are none to take."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def listen(self) -> None:
        """Take the signals for good, if this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._handle)
