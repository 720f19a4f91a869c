"""How threads wait for each other, decided again and again while a process lives.

Threads of GNU OpenMP that wait keep their processor busy for milliseconds, ready to go on. With the
machine to themselves that is right: there are hundreds of short waits to a small model's step, and
waking a thread takes longer than most. Beside another busy process it is wrong: what they wait for
is a thread that waits for their processor.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

STAT = Path("/proc/stat")
CROWDED = 0.5  # processors that others keep busy
SHORTEST = 0.5  # seconds; a shorter look tells little, since times are counted in hundredths


class SecondPool:
    """Makes waiting threads sleep soon, while it lives.

    Where a process has more threads of GNU OpenMP than there are processors, they spin no longer
    than a thousand rounds (libgomp: `gomp_throttled_spin_count_var`). A thread that has once
    computed something in parallel has a set of them of its own, as long as it lives. These sleep.
    """

    def __init__(self) -> None:
        ready, self._over = threading.Event(), threading.Event()

        def live() -> None:
            import torch

            torch.ones(1 << 17).add_(1)
            ready.set()
            self._over.wait()

        self.thread = threading.Thread(target=live, name="second pool", daemon=True)
        self.thread.start()
        ready.wait()

    def end(self) -> None:
        self._over.set()
        self.thread.join()


class Waiting:
    """How the threads of this process wait."""

    def __init__(self) -> None:
        self.pool: SecondPool | None = None
        self._lock = threading.Lock()
        self.look()

    def look(self) -> None:
        """Count from now on what others do."""
        self._since = time.monotonic(), _used_by_all(), _used_by_us()

    @property
    def seconds(self) -> float:
        """How long they have been counted."""
        return time.monotonic() - self._since[0]

    def neighbours(self) -> float:
        """How many processors other processes kept busy; 0 where that cannot be known (not on
        Linux). Children that have ended are ours, the others are not."""
        _, all_before, ours_before = self._since
        elapsed = self.seconds
        others = (_used_by_all() - all_before) - (_used_by_us() - ours_before)
        return max(0.0, others / elapsed) if elapsed else 0.0

    def settle(self) -> None:
        """Let waiting threads sleep soon if others needed the processors since the last time; else
        leave torch as it comes. Results do not depend on it.

        A GOMP_SPINCOUNT or OMP_WAIT_POLICY of the user's own stays.
        """
        if os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
            return
        with self._lock:
            if self.seconds < SHORTEST:
                return
            is_crowded = self.neighbours() > CROWDED
            self.look()
            if is_crowded and self.pool is None and _has_threads():
                self.pool = SecondPool()
            elif not is_crowded and self.pool is not None:
                self.pool.end()
                self.pool = None


def _has_threads() -> bool:
    import torch

    return torch.get_num_threads() > 1


def _used_by_us() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _used_by_all() -> float:
    """Seconds of processor time since the machine started, over all processors."""
    try:
        line = STAT.read_text("ascii").partition("\n")[0]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0
    # cpu user nice system idle iowait irq softirq …; what guests took is in user already.
    user, nice, system, _idle, _iowait, irq, softirq = map(int, line.split()[1:8])
    return (user + nice + system + irq + softirq) / ticks


waiting = Waiting()  # of the process
