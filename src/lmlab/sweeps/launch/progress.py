"""What a sweep says while its jobs run: which have ended, and a line with the rest."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lmlab.console import say
from lmlab.runs.directory import LOG
from lmlab.sweeps.journal.journal import FAILED, Event, Journal, followers, in_tables
from lmlab.sweeps.live.foot import LiveTable, live_table, shows_tables
from lmlab.sweeps.live.table import printable, said, table
from lmlab.sweeps.live.time_left import TimeLeft
from lmlab.sweeps.live.watched import Watched

KEPT = ("done", "paused", "pruned")  # what is not trained again


@dataclass
class Progress:
    """Jobs done, running, failed; the best so far; time left."""

    total: int
    has_best: bool = True  # losses of different tokens cannot be compared
    grows: bool = False  # more jobs are asked for as these end
    running: set[int] = field(default_factory=set)
    ended: dict[int, Event] = field(default_factory=dict)
    left: TimeLeft | None = None  # as it was last told

    def update(self, event: Event) -> None:
        if event.status == "running":
            self.running.add(event.job)
        else:
            self.running.discard(event.job)
            self.ended[event.job] = event

    @property
    def best(self) -> Event | None:
        """The job with the lowest loss, of those whose settings have no seed that diverged."""
        diverged = {e.setting for e in self.ended.values() if e.diverged}
        losses = [(e.loss, e) for e in self.ended.values() if e.setting not in diverged]
        known = [(loss, event) for loss, event in losses if loss is not None]
        return min(known, key=lambda pair: pair[0], default=(None, None))[1]

    def line(self) -> str:
        counts = Counter(e.status for e in self.ended.values())
        kept = sum(not e.trained for e in self.ended.values() if e.status in KEPT)
        aim = "planned" if counts["planned"] else "done"  # in a dry run nothing is done
        parts = [f"{counts[aim]}/{self.total} {aim}" + (f" ({kept} before)" if kept else "")]
        others = ("paused", "pruned", "failed", "killed", "skipped")
        parts += [f"{counts[status]} {status}" for status in others if counts[status]]
        if self.running:
            parts.append(f"{len(self.running)} running")
        if self.best is not None and self.has_best:
            parts.append(f"best {self.best.loss:.4f} ({Path(str(self.best.run)).name})")
        if self.left is not None and len(self.ended) < self.total:
            parts.append(said(self.left))
        return " · ".join(parts)


@contextmanager
def progress_shown(journal: Journal, progress: Progress) -> Iterator[None]:
    """Read the journal from a thread while jobs run, and show what it says: in a terminal as a
    table, else line by line."""
    try:
        with ExitStack() as stack:
            shown = _Lines(progress)
            if shows_tables():
                in_tables.add(journal.path)
                stack.callback(in_tables.discard, journal.path)
                shown = _Table(progress, stack.enter_context(live_table(captures=True)))
            with _followed(journal, progress, shown):
                try:
                    yield
                except (KeyboardInterrupt, SystemExit):
                    say("the sweep is interrupted; the same command goes on with it")
                    raise
    finally:
        if progress.ended and (len(progress.ended) >= progress.total or progress.running):
            say(progress.line())


@contextmanager
def _followed(journal: Journal, progress: Progress, shown: _Lines) -> Iterator[None]:
    reader, watched = Journal(journal.path), Watched(journal.path.parent.parent)
    over, showing = threading.Event(), threading.Lock()

    def show_news() -> None:
        with showing:
            shown.show(reader.news(), watched)

    def follow() -> None:
        while True:
            last, began = over.is_set(), time.thread_time()
            show_news()
            if last:
                return
            over.wait(max(0.5, 30 * (time.thread_time() - began)))  # training comes first

    followers[journal.path] = show_news
    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        del followers[journal.path]
        over.set()
        thread.join()


class _Lines:
    """What has ended, and how far the sweep is by then."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def show(self, events: Sequence[Event], watched: Watched) -> None:
        for event in events:
            self.progress.update(event)
            if event.status == "running" or not event.trained:
                continue
            say(_ending(event))
            if len(self.progress.ended) < self.progress.total:
                self.progress.left = watched.look().left
                say(f"        {self.progress.line()}")


class _Table(_Lines):
    """All of it in one place. A failure is said above it, so that its reason stays."""

    def __init__(self, progress: Progress, table: LiveTable):
        super().__init__(progress)
        self.table = table
        self._due = 0.0  # when it may be drawn again

    def show(self, events: Sequence[Event], watched: Watched) -> None:
        for event in events:
            self.progress.update(event)
            if event.status in FAILED:
                self.table.say(printable(_ending(event)))
        if time.monotonic() < self._due:
            return  # thousands of jobs that are done already end at once
        began = time.thread_time()
        now = watched.look()
        self.progress.left = now.left
        self.table.draw(partial(table, now))
        self._due = time.monotonic() + 0.2 + 10 * (time.thread_time() - began)


def _ending(event: Event) -> str:
    """A line about a job that has ended."""
    name = Path(str(event.run)).name
    if event.status == "done":
        loss = "no val/loss_full" if event.loss is None else f"val/loss_full {event.loss:.4f}"
        return f"done    {name}  {loss}"
    if event.error is not None:
        return f"{event.status:7} {name}  {event.error}  (log: {event.run}/{LOG})"
    return f"{event.status:7} {name}"
