"""How threads wait for each other, which has to be settled before torch is imported.

Threads of GNU OpenMP that wait keep their processor busy for milliseconds, ready to go on. With the
machine to themselves that is right: there are hundreds of short waits to a small model's step, and
waking a thread takes longer than most. Beside another busy process it is wrong: what they wait for
is a thread that waits for their processor.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
CROWDED = 0.5  # processors that others keep busy


class Neighbours:
    """What other processes do on this machine, counted from when this is made.

    Children that have ended are ours; the others are not.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic(), _used_by_all(), _used_by_us()

    def busy(self) -> float:
        """How many processors they kept busy; 0 where that cannot be known (not on Linux)."""
        began, all_before, ours_before = self._begin
        elapsed = time.monotonic() - began
        others = (_used_by_all() - all_before) - (_used_by_us() - ours_before)
        return max(0.0, others / elapsed) if elapsed else 0.0


def wait_for_threads_beside(neighbours: Neighbours) -> None:
    """Let waiting threads sleep soon if others need the processors; else leave torch as it comes.

    A GOMP_SPINCOUNT or OMP_WAIT_POLICY of the user's own stays.
    """
    settled = os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    if not settled and neighbours.busy() > CROWDED:
        os.environ["GOMP_SPINCOUNT"] = "1000"


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
