"""What a run is computed on: the last digits of its numbers depend on it."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch


def computed_on(record: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Fields for a run's record: `threads` of a process, the `processor`'s name, the `device`.

    Where it was begun on something else, that is kept in `computed_before`, a list.
    """
    is_gpu = device.type == "cuda"
    now = {
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if is_gpu else device.type,
    }
    last = {key: record[key] for key in now if key in record}
    before = record.get("computed_before") or []
    if last and last not in (now, *before):
        before = [*before, last]
    return {**now, **({"computed_before": before} if before else {})}


def _processor() -> str:
    """The name that the processor gives itself."""
    try:
        if platform.system() == "Darwin":
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            said = subprocess.run(asked, capture_output=True, text=True, timeout=5).stdout.strip()
        else:
            found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
            said = found[1].strip() if found else ""
    except (OSError, ValueError, subprocess.TimeoutExpired):
        said = ""
    return said or platform.processor() or platform.machine()
