"""How far a sweep is, as lines and as a table that fits into a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lmlab.runs.directory import LOG
from lmlab.sweeps.live.time_left import TimeLeft
from lmlab.sweeps.live.watched import JobProgress, SweepProgress

FEW = 5  # jobs that have ended
WIDE, NARROW = 90, 60  # columns: below these a bar and a rate have no room
ORDER = ("pruned", "paused", "failed", "killed", "interrupted", "skipped", "running", "waiting")
COLOURS = {"done": "green", "failed": "red", "killed": "red", "pruned": "yellow"}


def summary(progress: SweepProgress) -> str:
    """How many jobs there are of each status, the best, and the time left."""
    counts = progress.counts
    aim = "planned" if "planned" in counts else "done"  # in a dry run nothing is done
    parts = [f"{counts.get(aim, 0)}/{progress.n_jobs} {aim}"]
    others = [*ORDER, *sorted(set(counts) - {*ORDER, "done", "planned"})]
    parts += [f"{counts[status]:,} {printable(status)}" for status in others if status in counts]
    if (best := progress.best) is not None:
        parts.append(f"best {best.loss:.4f} ({printable(best.name)})")
    if progress.left is not None and not (progress.left.is_least and progress.left.seconds < 1):
        parts.append(said(progress.left))
    return " · ".join(parts)


def rounded(rate: float) -> str:
    """A number with three digits, or more if it is large."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def said(left: TimeLeft) -> str:
    """The time that is left."""
    return f"{'more than' if left.is_least else 'about'} {duration(left.seconds)} left"


def duration(seconds: float) -> str:
    """A time, as a person says it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"


def ending(job: JobProgress) -> str:
    """A line about a job that has ended."""
    name, status = printable(job.name), printable(job.status)
    if job.status == "done":
        loss = "no loss" if job.loss is None else f"val/loss_full {job.loss:.4f}"
        return f"done    {name}  {loss}"
    log = f"  (log: {printable(str(job.path / LOG))})" if job.path and job.error else ""
    return f"{status:7} {name}  {printable(job.error)}{log}".rstrip()


def table(progress: SweepProgress, width: int, height: int) -> RenderableType:
    """What has ended last, what is running, and the whole: within `width` columns and `height`
    lines."""
    running = [job for job in progress.jobs if job.status == "running"]
    room = max(1, height - 4)  # of the whole, of what has no room, and of where the cursor stands
    shown = running[:room]
    ended = [job for job in progress.jobs if job.status != "running"]
    last = ended[len(ended) - min(FEW, len(ended), room - len(shown)) :]
    longest = max((len(printable(job.name)) for job in (*last, *shown)), default=0)
    of_names = min(longest, width - 9 - _beside(width))
    lines = [_ended(job, of_names) for job in last]
    if len(running) > len(shown):
        lines.append(Text(f"and {len(running) - len(shown):,} more running", style="dim"))
    whole = Text(summary(progress), style="bold", no_wrap=True, overflow="ellipsis")
    return Group(
        *lines[: len(last)], _running(shown, width, of_names), *lines[len(last) :], whole, ""
    )


def _beside(width: int) -> int:
    """Columns that what stands beside the name of a running job takes."""
    return (16 if width < NARROW else 40) + _of_bar(width)


def _of_bar(width: int) -> int:
    return 0 if width < WIDE else min(40, (width - 60) // 3)


def _ended(job: JobProgress, of_names: int) -> Text:
    loss = "" if job.loss is None else f"{job.loss:.4f}"
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{printable(job.status):7.7}  ", style=COLOURS.get(job.status, ""))
    name = Text(printable(job.name))
    name.truncate(max(1, of_names), overflow="ellipsis", pad=True)
    return line + name + Text(f"  {printable(job.error) or loss}")


def _running(jobs: Sequence[JobProgress], width: int, of_names: int) -> Table:
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(width=7)
    rows.add_column(width=max(1, of_names), no_wrap=True, overflow="ellipsis")
    for _ in range(1 + 2 * (width >= NARROW) + (width >= WIDE)):
        rows.add_column(no_wrap=True)
    for job in jobs:
        rows.add_row("running", Text(printable(job.name)), *_pace(job, width))
    return rows


def _pace(job: JobProgress, width: int) -> Iterator[RenderableType]:
    place = job.step if job.place is None else round(job.place)
    if width >= WIDE:
        total = job.max_steps or 1
        yield ProgressBar(total=total, completed=min(place or 0, total), width=_of_bar(width) - 2)
    if place is None or job.max_steps is None:
        yield Text("begins")
    else:
        yield Text(
            f"{'~' if place != job.step else ''}{place:,}/{job.max_steps:,}", justify="right"
        )
    if width >= NARROW:
        yield Text("" if job.loss is None else f"val {job.loss:.4f}")
        yield Text("" if job.rate is None else f"{rounded(job.rate)} steps/s")


def news(before: SweepProgress, now: SweepProgress) -> list[JobProgress]:
    """The jobs that have ended since an earlier look."""
    known = {(job.name, job.status, job.error) for job in before.jobs}
    ended = [job for job in now.jobs if job.status not in ("running", "waiting")]
    return [job for job in ended if (job.name, job.status, job.error) not in known]


def printable(text: str) -> str:
    """A text on one line, without what a terminal would take for an order."""
    return "".join(c if c.isprintable() else "�" for c in " ".join(text.split()))[:2000]
