"""SIGINT and SIGTERM: finish the optimizer step, write a checkpoint, then go."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], None]


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


class Paused(BaseException):
    """Training has come to the step that it was to pause at, and its state is on disk."""

    def __init__(self, step: int):
        super().__init__(f"paused at step {step}")
        self.step = step


class Stop:
    """Whether somebody has asked training to stop, or to pause at a step."""

    def __init__(self, pause_at: int | None = None) -> None:
        self.signum: int | None = None
        self.pause_at = pause_at

    def __bool__(self) -> bool:
        return self.signum is not None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            # Asked twice: end at once. What is on disk is whole; \x1b[?25h shows the cursor again.
            sys.stdout.write("\x1b[?25h\n" if sys.stdout.isatty() else "")
            sys.stdout.flush()
            os._exit(128 + signum)
        self.signum = signum

    def listening(self) -> AbstractContextManager[None]:
        """Take the signals, and give them back."""
        return handled_by(self._handle)

    def listen(self) -> None:
        """Take the signals for good, if this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._handle)


@contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    """Within, the signals are this handler's. In a thread there are none to take."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, handler) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)
