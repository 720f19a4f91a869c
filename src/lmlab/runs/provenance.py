"""What a run was made with: versions, the commit, and the machine, on which last digits depend."""

from __future__ import annotations

import functools
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that a run is looked at without torch
    import torch

PACKAGES = ("lmlab", "torch", "lightning", "hydra-core", "tensorboard", "numpy")


@functools.cache
def versions() -> dict[str, str]:
    """Of Python and of the installed packages that numbers depend on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


@functools.cache  # the code of a process is that of its start, whatever is checked out later
def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, marked where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    # An installed copy may be inside somebody else's repository, whose commit is not ours.
    is_tracked = _printed([*git, "ls-files", "--error-unmatch", __file__])
    return _printed(describe) if is_tracked else None


def computed_on(record: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Fields for a run's record: `threads` of a process, the `processor`'s name, the `device`.

    Where it was begun on something else, that is kept in `computed_before`, a list.
    """
    import torch

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
    name = None
    if platform.system() == "Darwin":
        name = _printed(["sysctl", "-n", "machdep.cpu.brand_string"])
    elif (cpu_info := Path("/proc/cpuinfo")).is_file():
        line = re.search(r"model name\s*:\s*(.+)", cpu_info.read_text("utf-8", "replace"))
        name = line[1].strip() if line else None
    return name or platform.processor() or platform.machine()


def _printed(command: list[str]) -> str | None:
    """What a short command prints; None where it fails or prints nothing."""
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
