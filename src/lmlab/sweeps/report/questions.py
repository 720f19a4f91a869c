"""What is asked of a sweep, and what answers: each question gives sections of the report.

To ask something new, write a function like those below and add it to QUESTIONS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.progress import Progress

from lmlab.console import console
from lmlab.errors import LabError
from lmlab.sweeps.compare.differences import compare, setting_named
from lmlab.sweeps.compare.equal import At, at_point, parse_at, to_loss
from lmlab.sweeps.kept import FIT
from lmlab.sweeps.report.sections import Section
from lmlab.sweeps.report.verdicts import verdicts
from lmlab.sweeps.table.settings import Table


@dataclass(frozen=True)
class Asked:
    """What is asked beyond the leaderboard of a table."""

    table: Table
    baseline: int | None = None  # a setting; None: the best, for each question its own
    least: float | None = None  # a difference of losses that matters
    at: Sequence[At] = ()
    to: Sequence[float] = ()
    fit: bool = False  # a scaling law

    @classmethod
    def parse(
        cls,
        table: Table,
        baseline: str | None = None,
        least: float | None = None,
        at: Sequence[str] = (),
        to: Sequence[float] = (),
        fit: bool = False,
    ) -> Asked:
        """As it is typed.

        Raises:
            LabError: if a baseline is not there, or a number is of no use.
        """
        points = points_asked(least, at, to)
        setting = None if baseline is None else setting_named(table, baseline)
        return cls(table, setting, least, points, to, fit)

    @classmethod
    def from_words(cls, table: Table, words: Iterable[str]) -> Asked:
        """What an earlier report was asked, from `Kept.asked`.

        Raises:
            LabError, ValueError: if a word says nothing.
        """
        words = sorted(words)
        at = [word.removeprefix("--at ") for word in words if word.startswith("--at ")]
        to = [float(word.removeprefix("--to ")) for word in words if word.startswith("--to ")]
        return cls.parse(table, at=at, to=sorted(to), fit=FIT in words)

    def answers(self, settings: Sequence[int] | None = None) -> Iterator[Section]:
        """What says more than the leaderboard does, of some settings or all."""
        for question in QUESTIONS:
            yield from question(self, settings)


def points_asked(least: float | None, at: Sequence[str], to: Sequence[float]) -> list[At]:
    """The points of training, as they are typed beside other numbers.

    Raises:
        LabError: if any is of no use, whatever the runs are.
    """
    if least is not None and not 0 < least < math.inf:
        raise LabError(f"--least {least:g}: a difference of losses above zero, such as 0.01")
    for loss in to:
        if not math.isfinite(loss):
            raise LabError(f"--to {loss:g}: a loss, such as 1.88")
    return [parse_at(text) for text in at]


def differences(asked: Asked, settings: Sequence[int] | None) -> Iterator[Section]:
    """Each comparison with the baseline; the first says what the columns are."""
    table, baseline, least = asked.table, asked.baseline, asked.least
    at_end = compare(table, settings, baseline, least)
    compared = [at_end] if at_end.tested.any() else []
    for when in asked.at:
        compared.append(compare(table, settings, baseline, least, at_point(table, when)))
    for loss in asked.to:
        for unit in ("steps", "s", *(["flops"] if table.runs["flops"].gt(0).any() else [])):
            measured = to_loss(table, loss, unit)
            compared.append(compare(table, settings, baseline, measured=measured))
    for i, one in enumerate(compared):
        yield verdicts(one, legend=i == 0)


def law(asked: Asked, settings: Sequence[int] | None) -> Iterator[Section]:
    """The scaling law of all runs.

    Raises:
        LabError: if the runs do not determine one.
    """
    if asked.fit:
        from lmlab.sweeps.compare.scaling import RESAMPLES, scaling_of
        from lmlab.sweeps.report.law_sections import law_sections

        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("fitting the law to resampled runs", total=RESAMPLES)
            scaling = scaling_of(asked.table, advance=lambda: progress.advance(task))
        yield from law_sections(scaling)


def search(asked: Asked, settings: Sequence[int] | None) -> Iterator[Section]:
    """How the search went on, where the runs are of one."""
    from lmlab.sweeps.compare.trials import trials_of
    from lmlab.sweeps.report.search_section import search_section

    trials = trials_of(asked.table)
    if trials is not None:
        yield search_section(trials)


def halving(asked: Asked, settings: Sequence[int] | None) -> Iterator[Section]:
    """What each rung took, where runs have paused at some."""
    from lmlab.sweeps.report.rungs_section import rungs_sections

    yield from rungs_sections(asked.table)


QUESTIONS = (halving, differences, search, law)
