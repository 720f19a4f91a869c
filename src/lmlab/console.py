"""What a person sees, and what a run keeps of it in its log.

Several runs may go on in one process, each in a thread of its own. What a thread says goes to the
console and to the log of the run that it trains.
"""

from __future__ import annotations

import io
import logging
import shlex
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from lmlab.files import open_to_append
from lmlab.output import output


def make_console(**settings: Any) -> Console:
    """A console of rich's; in a notebook it writes plain lines.

    There rich would make each line an output of its own, in HTML.
    """
    settings.setdefault("file", output)
    made = Console(highlight=False, **settings)
    if made.is_jupyter:
        made = Console(highlight=False, force_jupyter=False, force_terminal=False, **settings)
    return made


console = make_console(soft_wrap=True)  # of this process
# In a notebook tqdm, which others import, asks for widgets that nobody misses here.
warnings.filterwarnings("ignore", message="IProgress not found")
log = logging.getLogger("lmlab")
NOBODY = logging.NullHandler()

_console: ContextVar[Console] = ContextVar("console", default=console)
_log_file: ContextVar[logging.Handler | None] = ContextVar("log_file", default=None)
_warnings = threading.Lock()
_n_log_files = 0
_show_warning = warnings.showwarning


def current_console() -> Console:
    """The console of the run that this thread trains; outside of one, the process's."""
    return _console.get()


def say(text: str) -> None:
    """Print a line (never read as markup) and put it into the run's log."""
    current_console().print(text, markup=False)
    log.info(text)


@contextmanager
def shown_on(other: Console | None) -> Iterator[None]:
    """Say everything on another console; None: go on as before."""
    before = _console.set(current_console() if other is None else other)
    try:
        yield
    finally:
        _console.reset(before)


class _LogFile(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk ends no run because its log lacks a line."""


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Keep what is said, and the warnings of all libraries, in a file as well.

    A thread that belongs to no run, such as a library's, is kept in the file of every run.
    """
    stream = io.TextIOWrapper(open_to_append(path, path.parent), "utf-8", "backslashreplace", "\n")
    handler = _LogFile(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(lambda record: _log_file.get() in (None, handler))
    root = logging.getLogger()
    log.setLevel(logging.INFO)
    root.addHandler(handler)
    before = _log_file.set(handler)
    _log_warnings(+1)
    try:
        yield
    finally:
        _log_warnings(-1)
        _log_file.reset(before)
        root.removeHandler(handler)
        handler.close()
        with suppress(OSError):  # a full disk
            stream.close()


def _log_warnings(change: int) -> None:
    """Log warnings while there is a file to log them to."""
    global _n_log_files, _show_warning
    with _warnings:
        if _n_log_files == 0:
            _show_warning, warnings.showwarning = warnings.showwarning, _show_and_log
        _n_log_files += change
        if _n_log_files == 0:
            warnings.showwarning = _show_warning


def _show_and_log(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # logging.captureWarnings would take it from whoever looks at the terminal.
    _show_warning(message, category, filename, lineno, file, line)
    log.warning("%s: %s (%s:%s)", category.__name__, message, filename, lineno)


def command(name: str) -> str:
    """How one of the commands is called from where the user stands: by a checkout's script, or, if
    that is what was typed or there is no checkout, as lmlab's."""
    script = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    if not script.is_file() or Path(sys.argv[0]).stem == "lmlab":
        return f"{_program('lmlab')} {name}"
    return f"{_program('python')} {_from_here(script)}"


def board_command(folder: Path) -> str:
    """How TensorBoard is started on a folder of runs."""
    is_checkout = Path("Makefile").is_file() and Path("scripts/board.py").is_file()
    if is_checkout and folder == Path("outputs"):
        return "make board"
    return f"{command('board')} {shlex.quote(str(folder))}"


def _program(name: str) -> str:
    """A program of this environment: its name, if a shell finds it by that, else its path."""
    folder, on_path = Path(sys.executable).parent, shutil.which(name)
    if on_path is not None and Path(on_path).parent.resolve() == folder.resolve():
        return name
    return _from_here(Path(sys.executable) if name == "python" else folder / name)


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def quiet_libraries() -> None:
    """Silence lines that a user can do nothing about; call it once lightning is imported."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning_utilities"):
        logger = logging.getLogger(name)
        logger.handlers.clear()  # its own handler would double every line
        logger.setLevel(logging.WARNING)
    for name in ("lightning.pytorch", "lightning.fabric"):  # they keep their lines to themselves
        logger = logging.getLogger(name)
        logger.propagate = True  # into the run's log
        if logging.lastResort is not None:
            logger.addHandler(logging.lastResort)  # and to the terminal
    # A resumed run has TensorBoard purge what was written after its checkpoint, as it should.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    # What it says in many lines of a process that failed, we say in one.
    elastic = logging.getLogger("torch.distributed.elastic")
    elastic.propagate = False
    elastic.addHandler(NOBODY)
    for message in (
        r".*does not have many workers.*",
        r".*`LightningModule\.configure_optimizers` returned `None`.*",
        r".*Experiment logs directory .* exists and is not empty.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*GPU available but not used.*",
        r".*across ranks is zero.*",  # a run that has only its end left to do
    ):
        warnings.filterwarnings("ignore", message=message)


Advance = Callable[[int], None]  # told how much more is done


def bytes_progress(what: str, total: int) -> AbstractContextManager[Advance]:
    """For work counted in bytes: a bar in a terminal, else one plain line if it takes a second."""
    return _progress(what, total, DownloadColumn(), f"{total / 1e6:,.0f} MB to read")


def count_progress(what: str, total: int, of_what: str) -> AbstractContextManager[Advance]:
    """The same for anything else that is counted."""
    return _progress(what, total, MofNCompleteColumn(), f"{total:,} {of_what}")


@contextmanager
def _progress(what: str, total: int, column: ProgressColumn, amount: str) -> Iterator[Advance]:
    columns = (TextColumn("{task.description}"), BarColumn(), column)
    console = current_console()
    progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    task = progress.add_task(what, total=total)
    shown = False

    def advance(n: int) -> None:
        nonlocal shown
        progress.advance(task, n)
        if not shown and (progress.tasks[task].elapsed or 0) > 1:
            shown = True
            if console.is_terminal:
                progress.start()
            else:
                say(f"{what}, {amount}")

    try:
        yield advance
    finally:
        if shown and console.is_terminal:
            progress.stop()
