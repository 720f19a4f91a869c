"""TensorBoard on a folder of runs, with a link that opens on the answer, or on the losses."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from lmlab.display.for_tensorboard.tensorboard_inside import plugins, program
from lmlab.errors import LabError
from lmlab.runs.directory import EVENTS

FLAGS = (
    "--host=localhost",
    # TensorBoard keeps so many points of a series, and drops others at random. Its defaults are
    # 1,000 points of a curve, 10 images and 10 texts.
    "--samples_per_plugin=scalars=10000,images=100,text=100,histograms=100",
    # A run may write to more than its newest file. Only TensorBoard's reader in Python needs this
    # flag; it is used where the fast reader is not available.
    "--reload_multifile=true",
)
MOST_TICKED = 40  # above that it opens with no run ticked
# By default it smooths, which hides what an evaluation found.
LOSSES = "?smoothing=0&tagFilter=loss#"


def start(
    folder: Path,
    *flags: str,
    first: Any = None,
    shown: Callable[[Any], Any] | None = None,
    tab: str = "timeseries",
) -> str:
    """Start TensorBoard in this process, on the first free port from 6006 on, and give the link.

    `first` is a plugin, or what loads one, whose tab stands before all others; `shown` makes of
    TensorBoard's data provider the one that its tabs read; the link opens on `tab`.

    Raises:
        LabError: if the folder is not there, or TensorBoard refuses a flag or the port.
    """
    from tensorboard.plugins.base_plugin import FlagsError
    from tensorboard.program import TensorBoardServerException

    if not folder.is_dir():
        raise LabError(f"{folder}: no such folder of runs; train one first")
    board = program(plugins(first), shown)
    refused = io.StringIO()
    try:
        with redirect_stderr(refused):
            board.configure(["tensorboard", f"--logdir={folder}", *FLAGS, *flags])
    except FlagsError as error:
        raise LabError(f"TensorBoard does not start: {error}") from error
    except SystemExit as left:
        if not left.code:  # it has shown its help
            raise
        reason = refused.getvalue().strip().rpartition("error: ")[2]
        raise LabError(f"TensorBoard does not start: {reason}") from left
    if board.flags.logdir != str(folder):
        raise LabError(f"--logdir={board.flags.logdir}: the folder is {folder}; give one of them")
    try:
        # It would tell of its fast reader, and of each port that is taken.
        with redirect_stderr(io.StringIO()):
            return f"{board.launch()}{LOSSES}{tab}"
    except TensorBoardServerException as error:
        raise LabError(f"TensorBoard does not start: {error}") from error


def count(folder: Path) -> int:
    """How many runs TensorBoard finds below a folder."""
    return sum(any(name.startswith(EVENTS) for name in files) for _, _, files in os.walk(folder))
