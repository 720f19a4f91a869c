"""`lmlab sweep <folder> --watch`: a sweep looked at from another terminal until it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lmlab.console import console
from lmlab.errors import LabError
from lmlab.output import output
from lmlab.sweeps.journal.journal import FAILED
from lmlab.sweeps.live.foot import live_table, shows_tables
from lmlab.sweeps.live.table import ending, news, summary, table
from lmlab.sweeps.live.watched import SweepProgress, Watched


def watch(folder: Path) -> None:
    """Show how far a sweep is: in a terminal as a table, else a line whenever something changes.
    Only files are read, so whatever trains its jobs may be on another machine.

    Raises:
        LabError: if the folder is not there.
    """
    if not folder.is_dir():
        raise LabError(f"{folder}: no such directory; sweeps are kept in outputs/sweeps/<name>")
    if shows_tables():
        with live_table(captures=False) as foot:

            def draw(before: SweepProgress, now: SweepProgress) -> None:
                for job in news(before, now):
                    if job.status in FAILED:
                        foot.say(ending(job))
                foot.draw(partial(table, now))

            last = _follow(folder, draw)
    else:
        last = _follow(folder, _say)
    if last.n_not_begun:
        console.print(
            f"{last.n_not_begun:,} of {last.n_jobs:,} jobs have not begun, and the process that "
            "launched them is gone; the same command goes on with them",
            markup=False,
        )


def _follow(folder: Path, show: Callable[[SweepProgress, SweepProgress], None]) -> SweepProgress:
    """Look again and again until nothing more happens, or nobody reads it; what was seen last."""
    watched = Watched(folder)
    before = now = watched.look()
    while True:
        began = time.monotonic()
        show(before, now)
        if now.is_over or output.is_closed:
            return now
        time.sleep(max(0.5, 10 * (time.monotonic() - began)))
        before, now = now, watched.look()


def _say(before: SweepProgress, now: SweepProgress) -> None:
    if before is now:
        if now.n_jobs:
            console.print(summary(now), markup=False)
    elif ended := news(before, now):
        for job in ended:
            console.print(ending(job), markup=False)
        console.print(f"        {summary(now)}", markup=False)
    elif before.counts != now.counts:
        console.print(summary(now), markup=False)
