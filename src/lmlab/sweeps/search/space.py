"""A search space in Hydra's sweep syntax, as Optuna's distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hydra.core.override_parser.types import IntervalSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from lmlab.config.words.axes import Axes
from lmlab.config.words.branches import Branch, Row, is_among
from lmlab.errors import LabError


class Example(NamedTuple):
    """The overrides of a job, and the searched keys of which another has other values."""

    words: list[str]
    open_keys: set[str]


@dataclass(frozen=True)
class Space:
    """The axes of a search, and Optuna's distribution of each, by its label."""

    axes: Axes
    searched: dict[str, BaseDistribution]

    @classmethod
    def of(cls, axes: Axes) -> Space:
        """
        Raises:
            LabError: if nothing is searched, or a search makes no sense.
        """
        searched = {b.label: distribution(b) for b in axes.branches if b.is_swept}
        if not searched:
            raise LabError(
                "nothing to search: give a key several values, key=a,b,c or key=range(…), or "
                "bounds, key=interval(…), here or in hydra.sweeper.params"
            )
        return cls(axes, searched)

    @property
    def keys(self) -> set[str]:
        """The config keys that differ between trials."""
        return {key.lstrip("+") for branch in self.axes.branches for key in branch.keys}

    @property
    def is_conditional(self) -> bool:
        return any(branch.condition is not None for branch in self.axes.branches)

    def suggest(self, ask: Callable[[str, BaseDistribution], Any]) -> list[str]:
        """The overrides of a job whose values `ask` gives one after the other, by label: what is
        asked for may depend on what was answered."""

        def row(branch: Branch) -> list[Row]:
            return [_row(branch, ask(branch.label, self.searched[branch.label]))]

        return next(self.axes.jobs(row))

    def job(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of the job that tries `params`."""
        return self.suggest(lambda label, _: params[label])

    def examples(self) -> Iterator[Example]:
        """Jobs in which each choice occurs, and both ends of whatever else is searched."""
        for branch in self.axes.branches:
            wanted = self.axes.towards(branch)
            for row in _examples(branch, self.searched.get(branch.label)):

                def first_rows(of: Branch, branch: Branch = branch, row: Row = row) -> list[Row]:
                    if of is branch:
                        return [row]
                    rows = _examples(of, self.searched[of.label])
                    for key, values in wanted.items():  # noqa: B023
                        rows = [r for r in rows if _has(r, key, values)] or rows
                    return rows[:1]

                others = self.keys - {key.lstrip("+") for key in branch.keys}
                yield Example(next(self.axes.jobs(first_rows)), others)

    @property
    def n_points(self) -> int:
        """Of the grid of all values."""
        return math.prod(_values(d)[0] for d in self.searched.values())

    def grid(self) -> dict[str, list[Any]]:
        """Every value of every key.

        Raises:
            LabError: if there is no end of them.
        """
        if self.is_conditional:
            raise LabError(
                "hydra/sweeper/sampler=grid: with hydra.sweeper.when there is no one grid; "
                "hydra/sweeper=grid tries every combination"
            )
        for key, d in self.searched.items():
            if isinstance(d, FloatDistribution) and d.step is None:
                raise LabError(
                    f"{key}=interval({d.low},{d.high}): the grid sampler tries every value, so it "
                    "needs a list or a range"
                )
        return {key: list(_values(d)[1]) for key, d in self.searched.items()}


def distribution(branch: Branch) -> BaseDistribution:
    """One axis: choices stay as they would be typed, numbers that have an order keep it."""
    override = branch.override
    if override is None:
        return CategoricalDistribution([_choice(row) for row in branch.rows or ()])
    value, text = override.value(), override.input_line
    tags: set[str] = getattr(value, "tags", set())
    if tags and (tags != {"log"} or not isinstance(value, IntervalSweep)):
        raise LabError(f"{text}: the one tag is log, and it belongs to an interval")
    try:
        if isinstance(value, IntervalSweep):
            low, high, log = value.start, value.end, bool(tags)
            if isinstance(low, int) and isinstance(high, int):  # int(interval(…))
                return IntDistribution(low, high, log=log)
            return FloatDistribution(low, high, log=log)  # type: ignore[arg-type]
        if branch.numbers is not None:
            numbers = branch.numbers.in_order(descending=False)
            low, high = numbers[0], numbers[numbers.size - 1]
            if numbers.are_whole:
                return IntDistribution(int(low), int(high), step=int(numbers.step))
            return FloatDistribution(low, high, step=float(numbers.step))
        texts = [row.words[0].partition("=")[2] for row in branch.rows or ()]
        # The order of shuffled ones would be another one at each start.
        return CategoricalDistribution(sorted(texts) if getattr(value, "shuffle", False) else texts)
    except ValueError as error:
        raise LabError(f"{text}: {' '.join(str(error).split())}") from error


def values_of(d: BaseDistribution) -> Iterable[Any]:
    """The values of an axis, in order; of an interval its bounds."""
    return _values(d)[1]


def _values(d: BaseDistribution) -> tuple[int, Iterable[Any]]:
    """How many values an axis has, and they in order; of an interval its bounds."""
    if isinstance(d, CategoricalDistribution):
        return len(d.choices), d.choices
    if isinstance(d, IntDistribution):
        numbers = range(d.low, d.high + 1, d.step)
        return len(numbers), numbers
    assert isinstance(d, FloatDistribution)
    if d.step is None:
        return 2, (d.low, d.high)
    low, step, n = d.low, d.step, round((d.high - d.low) / d.step) + 1
    return n, (low + i * step for i in range(n))


def _choice(row: Row) -> str:
    """What a study calls values that go together."""
    return ", ".join(row.words)


def _row(branch: Branch, value: Any) -> Row:
    """What a value of the study sets."""
    if branch.override is None:
        return next(row for row in branch.rows or () if _choice(row) == value)
    # A choice is text as Hydra reads it already, and a float keeps every digit.
    return branch.row(value if isinstance(value, str) else repr(value))


def _has(row: Row, key: str, values: Sequence[Any]) -> bool:
    return key in row.values and is_among(row.values[key], values)


def _examples(branch: Branch, d: BaseDistribution | None) -> list[Row]:
    """Every choice; of numbers the first and the last."""
    if d is None:
        return list(branch.rows or ())
    if isinstance(d, CategoricalDistribution):
        return [_row(branch, choice) for choice in d.choices]
    assert isinstance(d, IntDistribution | FloatDistribution)
    return [_row(branch, number) for number in dict.fromkeys((d.low, d.high))]
