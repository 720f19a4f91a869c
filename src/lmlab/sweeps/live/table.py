"""How far a sweep is, as lines and as a table that fits into a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lmlab.runs.directory import LOG
from lmlab.sweeps.live.time_left import TimeLeft
from lmlab.sweeps.live.watched import JobProgress, SweepProgress

FEW = 5  # jobs that have ended
BAR = 40  # columns of the longest
DOT = " · "
MOST = 2_000  # characters of somebody's text
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
    return DOT.join(parts)


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
        loss = "no val/loss_full" if job.loss is None else f"val/loss_full {job.loss:.4f}"
        return f"done    {name}  {loss}"
    log = f"  (log: {printable(str(job.path / LOG))})" if job.path and job.error else ""
    return f"{status:7} {name}  {printable(job.error)}{log}".rstrip()


def table(progress: SweepProgress, width: int, height: int) -> RenderableType:
    """What has ended last, what is running, and the whole: within `width` columns and `height`
    lines, if they are enough for a line or two."""
    whole = _packed(summary(progress), width)
    running = [job for job in progress.jobs if job.status == "running"]
    ended = [job for job in progress.jobs if job.status != "running"]
    room = max(0, height - len(whole) - 2)  # but for what has no room, and where the cursor stands
    shown = running[:room]
    last = ended[len(ended) - min(FEW, len(ended), room - len(shown)) :]
    of_names = min(_widest([printable(job.name) for job in (*last, *shown)]), max(8, width // 2))
    lines: list[RenderableType] = [_ended(job, of_names) for job in last]
    lines.append(_running(shown, of_names, width))
    if len(running) > len(shown) and height > len(whole) + 1:
        lines.append(Text(f"and {len(running) - len(shown):,} more running", style="dim"))
    return Group(*lines, *(Text(line, style="bold", no_wrap=True) for line in whole), "")


def _packed(text: str, width: int) -> list[str]:
    """A text that is divided by dots on as many lines as it takes."""
    lines: list[str] = []
    for part in text.split(DOT):
        if lines and cell_len(lines[-1] + DOT + part) <= width:
            lines[-1] += DOT + part
        else:
            lines.append(part if cell_len(part) <= width else f"{set_cell_size(part, width - 1)}…")
    return lines


def _ended(job: JobProgress, of_names: int) -> Text:
    loss = "" if job.loss is None else f"{job.loss:.4f}"
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{printable(job.status):7.7}  ", style=COLOURS.get(job.status, ""))
    return line + _name(job, of_names) + Text(f"  {printable(job.error) or loss}")


def _name(job: JobProgress, of_names: int) -> Text:
    name = Text(printable(job.name))
    name.truncate(of_names, overflow="ellipsis", pad=True)
    return name


def _running(jobs: Sequence[JobProgress], of_names: int, width: int) -> Table:
    """Where each job is, and as much else as there is room for."""
    places = [_place(job) for job in jobs]
    losses = ["" if job.loss is None else f"val {job.loss:.4f}" for job in jobs]
    rates = ["" if job.rate is None else f"{rounded(job.rate)} steps/s" for job in jobs]
    columns, left = [places], width - 9 - of_names - _widest(places) - 4
    for column in (losses, rates):
        if left >= _widest(column) + 2:
            columns.append(column)
            left -= _widest(column) + 2
    rows = Table.grid(padding=(0, 2, 0, 0))
    for i in range(3 + len(columns)):
        rows.add_column(no_wrap=True, overflow="ellipsis", justify="right" if i == 3 else "left")
    for job, *cells in zip(jobs, *columns, strict=True):
        total = job.max_steps or 1
        bar = ProgressBar(total, min(job.place or job.step or 0, total), min(BAR, left - 2))
        rows.add_row("running", _name(job, of_names), bar if left > 10 else "", *map(Text, cells))
    return rows


def _place(job: JobProgress) -> str:
    """The step that it is at; after ~ if that is told by its pace."""
    place = job.step if job.place is None else round(job.place)
    if place is None or job.max_steps is None:
        return "begins"
    return f"{'~' if place != job.step else ''}{place:,}/{job.max_steps:,}"


def _widest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)


def news(before: SweepProgress, now: SweepProgress) -> list[JobProgress]:
    """The jobs that have ended since an earlier look."""
    known = {(job.name, job.status, job.error) for job in before.jobs}
    ended = [job for job in now.jobs if job.status not in ("running", "waiting")]
    return [job for job in ended if (job.name, job.status, job.error) not in known]


def printable(text: str) -> str:
    """A text on one line, without what a terminal would take for an order."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "�" for c in text[:MOST].strip()
    )
