"""What TensorBoard shows of runs whose loggers could not say it: refused, or killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmlab.display import summaries
from lmlab.display.event_files import BEGIN, END, PREFIX, next_number, numbered, write

EVENT_FILES = "lmlab.display.loggers.EventFiles"


def show_refused(folder: Path, config: dict[str, Any], reason: str, started: str) -> None:
    """Give a run that failed before its first step a row in the HParams table, unless it has one.

    `config` may be what was refused; `started` is an ISO time. A later start of the run replaces
    both files.

    Raises:
        LabError, OSError: if they cannot be written.
    """
    if not _logs(config) or any(folder.glob(f"{PREFIX}*{BEGIN}")):
        return
    number = next_number(folder)
    write(numbered(folder, number, BEGIN), summaries.refused(config, reason, started))
    write(numbered(folder, number, END), [summaries.ending("failed")])


def show_killed(folder: Path) -> None:
    """Mark the row of a run that was killed, if it has one, as failed.

    Raises:
        LabError, OSError: if it cannot be written.
    """
    if any(folder.glob(f"{PREFIX}*{BEGIN}")) and not any(folder.glob(f"{PREFIX}*{END}")):
        write(numbered(folder, next_number(folder) - 1, END), [summaries.ending("killed")])


def _logs(config: dict[str, Any]) -> bool:
    """Whether the config has event files written."""
    loggers = config.get("logger")
    nodes = loggers.values() if isinstance(loggers, dict) else ()
    targets = [node.get("_target_") for node in nodes if isinstance(node, dict)]
    return EVENT_FILES in targets or (
        isinstance(loggers, dict) and loggers.get("tensorboard") is True
    )
