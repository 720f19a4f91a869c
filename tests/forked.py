"""A command in a process of its own that begins with everything imported: a fork of a server that
has. (A process of Python's that imports torch and Lightning takes six seconds of a processor.)"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["lmlab.cli", "lmlab.core.train", "lmlab.sweeps.launch.job"])


TRAIN = Path(__file__).parents[1] / "scripts/train.py"


class Forked:
    """A script with its words, the head of a group of processes; used as a Popen."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
        script: Path = TRAIN,
    ):
        """It works in `folder`, with `env` besides this process's."""
        self._printed = TemporaryDirectory(prefix="forked-")
        to = [str(Path(self._printed.name, name)) for name in ("out", "err")]
        where = str(folder or Path.cwd())
        args = (str(script), list(words), where, {**os.environ, **(env or {})}, *to)
        self._process: BaseProcess = processes.Process(target=_run, args=args)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def kill(self) -> None:
        """It, and those that it has started."""
        self._process.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed and what it said of errors, once it has ended."""
        self.wait(timeout)
        paths = [Path(self._printed.name, name) for name in ("out", "err")]
        out, err = (path.read_text("utf-8") if path.is_file() else "" for path in paths)
        return out, err


def _run(
    script: str, words: list[str], folder: str, env: dict[str, str], out: str, err: str
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for file, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    first = [str(Path(script).parent), *env.get("PYTHONPATH", "").split(os.pathsep)]
    sys.path[:0] = filter(None, first)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
