"""How a training ended: kept in the run's record, and said."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lightning.pytorch.utilities.exceptions import SIGTERMException

from lmlab.console import command, log, say
from lmlab.errors import DivergedError, LabError
from lmlab.runs.directory import RECORD, RunDirectory
from lmlab.training.processes.stopping import Interrupted, Paused, Pruned


@contextmanager
def outcome_recorded(run: RunDirectory) -> Iterator[None]:
    """Within, a run is trained: whatever ends it early is left in its record, and raised again."""
    try:
        try:
            yield
        except SIGTERMException:  # Lightning's own answer, in the middle of an evaluation
            raise Interrupted(signal.SIGTERM, run.record["step"]) from None
    except (Interrupted, Paused) as stopped:
        status = "paused" if isinstance(stopped, Paused) else "interrupted"
        run.update(status=status, step=stopped.step)
        say(f"{stopped}; everything is kept")
        say(f"continue  {command('train')} {shlex.quote(f'run={run.path}')}")
        raise
    except Pruned as pruned:
        run.update(status="pruned", step=pruned.step)
        say(str(pruned))
        raise
    except BaseException as error:
        record_failure(run, error)
        if isinstance(error, Exception) and not (run.path / RECORD).is_file():
            raise LabError(
                f"run={run.path} is gone: it was moved or deleted while it was trained"
            ) from error
        if isinstance(error, OSError):
            raise LabError(f"{run.path}: {error.strerror or error}") from error
        raise


def record_failure(run: RunDirectory, error: BaseException) -> None:
    """Leave a failure in the log and in the record of a run."""
    with suppress(LabError):  # the disk may be what failed
        log.error("failed", exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        run.update(status="failed", error=reason, diverged=isinstance(error, DivergedError))
