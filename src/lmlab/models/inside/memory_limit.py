"""How much memory there is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, in bytes, or "max"


def memory_bytes() -> int:
    """The memory of this machine, or of the container that this process is in; without end where
    Python cannot find out (Windows)."""
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        physical = sys.maxsize
    try:
        return min(physical, int(CGROUP_LIMIT.read_text("ascii")))
    except (OSError, ValueError):
        return physical
