"""One at a time: what trains or computes in one thread of a process, and what in another.

A process has one set of torch's default generators, one Hydra, one handler of each signal.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_turn = threading.RLock()


@contextmanager
def own_turn() -> Iterator[None]:
    """Within, no other thread of this process is within; whoever comes second says so and waits."""
    if not _turn.acquire(blocking=False):
        from lmlab.console import current_console

        # Not by `say`: it would stand in the other's log.
        current_console().print("waiting for another thread of this process, which uses the lab")
        _turn.acquire()
    try:
        yield
    finally:
        _turn.release()
