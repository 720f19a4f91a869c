"""What a sweep says while its jobs run: which have ended, and a line with the rest."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lmlab.console import say
from lmlab.runs.directory import LOG
from lmlab.sweeps.launch.journal import FAILED, Event, Journal, followers

KEPT = ("done", "paused", "pruned")  # what is not trained again


@dataclass
class Progress:
    """Jobs done, running, failed; the best so far; time left."""

    total: int
    has_best: bool = True  # losses of different tokens cannot be compared
    running: dict[int, float] = field(default_factory=dict)  # since when
    ended: dict[int, Event] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)  # of jobs trained to their end, seconds
    most_running: int = 1

    def update(self, event: Event) -> None:
        if event.status == "running":
            self.running[event.job] = event.time
            self.most_running = max(self.most_running, len(self.running))
            return
        began = self.running.pop(event.job, event.time)
        if event.trained and event.status not in FAILED:  # a failure takes as long as it takes
            self.durations.append(event.time - began)
        self.ended[event.job] = event

    @property
    def best(self) -> Event | None:
        """The job with the lowest loss, of those whose settings have no seed that diverged."""
        diverged = {e.setting for e in self.ended.values() if e.diverged}
        losses = [(e.loss, e) for e in self.ended.values() if e.setting not in diverged]
        known = [(loss, event) for loss, event in losses if loss is not None]
        return min(known, key=lambda pair: pair[0], default=(None, None))[1]

    def seconds_left(self) -> float | None:
        """By the mean duration so far, with as many at once as there have been."""
        if not self.durations:
            return None
        mean = sum(self.durations) / len(self.durations)
        now = time.time()
        begun = sum(max(0.0, mean - (now - since)) for since in self.running.values())
        waiting = self.total - len(self.ended) - len(self.running)
        return (begun + mean * waiting) / self.most_running

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
        left = self.seconds_left()
        if left is not None and len(self.ended) < self.total:
            parts.append(f"about {_duration(left)} left")
        return " · ".join(parts)


@contextmanager
def progress_shown(journal: Journal, progress: Progress) -> Iterator[None]:
    """Read the journal from a thread while jobs run, and say what it says."""
    over = threading.Event()

    def show_news() -> None:
        with showing:
            _show(reader.news(), progress)

    def follow() -> None:
        while True:
            last = over.is_set()
            show_news()
            if last:
                return
            over.wait(0.5)

    reader, showing = Journal(journal.path), threading.Lock()
    followers[journal.path] = show_news
    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say("the sweep is interrupted; the same command goes on with it")
        raise
    finally:
        del followers[journal.path]
        over.set()
        thread.join()
        if progress.ended and (len(progress.ended) >= progress.total or progress.running):
            say(progress.line())


def _show(events: Sequence[Event], progress: Progress) -> None:
    for event in events:
        progress.update(event)
        if event.status == "running" or not event.trained:
            continue
        name = Path(str(event.run)).name
        if event.status == "done":
            loss = "no loss" if event.loss is None else f"val/loss_full {event.loss:.4f}"
            say(f"done    {name}  {loss}")
        elif event.error is not None:
            say(f"{event.status:7} {name}  {event.error}  (log: {event.run}/{LOG})")
        else:
            say(f"{event.status:7} {name}")
        if len(progress.ended) < progress.total:
            say(f"        {progress.line()}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
