"""A search space in Hydra's sweep syntax, as Optuna's distributions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from lmlab.errors import LabError


@dataclass(frozen=True)
class Space:
    """What is searched, by key, and what all jobs have in common, as it was typed."""

    searched: dict[str, BaseDistribution]
    fixed: list[str]

    @classmethod
    def parse(
        cls, params: Mapping[str, Any], arguments: list[str], config_loader: ConfigLoader
    ) -> Space:
        """What the command line says of a key replaces what `params` say of it.

        Raises:
            LabError: if nothing is searched, or a search makes no sense.
        """
        parser = OverridesParser.create(config_loader=config_loader)
        words = [*(f"{key}={values}" for key, values in params.items()), *arguments]
        said = {o.get_key_element(): o for o in parser.parse_overrides(words)}
        searched = {key: distribution(o) for key, o in said.items() if o.is_sweep_override()}
        if not searched:
            raise LabError(
                "nothing to search: give a key several values, key=a,b,c or key=range(…), or "
                "bounds, key=interval(…), here or in hydra.sweeper.params"
            )
        return cls(
            searched, [str(o.input_line) for o in said.values() if not o.is_sweep_override()]
        )

    def job(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of the job that tries `params`."""
        return [*self.fixed, *(f"{key}={_text(value)}" for key, value in params.items())]

    def examples(self) -> Iterator[list[str]]:
        """Jobs in which each choice occurs, and a bound of whatever else is searched."""
        first = {key: next(_values(d)) for key, d in self.searched.items()}
        yield self.job(first)
        for key, d in self.searched.items():
            if isinstance(d, CategoricalDistribution):
                yield from (self.job({**first, key: choice}) for choice in d.choices[1:])

    def grid(self) -> dict[str, list[Any]]:
        """Every value of every key.

        Raises:
            LabError: if there is no end of them.
        """
        for key, d in self.searched.items():
            if isinstance(d, FloatDistribution) and d.step is None:
                raise LabError(
                    f"{key}=interval({d.low},{d.high}): the grid sampler tries every value, so it "
                    "needs a list or a range"
                )
        return {key: list(_values(d)) for key, d in self.searched.items()}


def distribution(override: Override) -> BaseDistribution:
    """One axis: choices stay as they would be typed, numbers that have an order keep it."""
    value, said = override.value(), override.input_line
    tags: set[str] = getattr(value, "tags", set())
    if tags and (tags != {"log"} or not isinstance(value, IntervalSweep)):
        raise LabError(f"{said}: the one tag is log, and it belongs to an interval")
    try:
        if isinstance(value, IntervalSweep):
            low, high, log = value.start, value.end, bool(tags)
            if isinstance(low, int) and isinstance(high, int):  # int(interval(…))
                return IntDistribution(low, high, log=log)
            return FloatDistribution(low, high, log=log)  # type: ignore[arg-type]
        if isinstance(value, RangeSweep):
            numbers = list(value.range())
            if not numbers:
                raise ValueError("no number is in this range")
            low, high, step = min(numbers), max(numbers), abs(value.step)
            if isinstance(numbers[0], int):
                return IntDistribution(low, high, step=int(step))
            return FloatDistribution(low, high, step=step)
        texts = list(dict.fromkeys(override.sweep_string_iterator()))
        # The order of shuffled ones would be another one at each start.
        return CategoricalDistribution(sorted(texts) if getattr(value, "shuffle", False) else texts)
    except ValueError as error:
        raise LabError(f"{said}: {' '.join(str(error).split())}") from error


def _values(d: BaseDistribution) -> Iterator[Any]:
    """The values of an axis in order; of an interval its bounds."""
    if isinstance(d, CategoricalDistribution):
        yield from d.choices
    elif isinstance(d, IntDistribution):
        yield from range(d.low, d.high + 1, d.step)
    elif isinstance(d, FloatDistribution) and d.step is not None:
        yield from (d.low + i * d.step for i in range(round((d.high - d.low) / d.step) + 1))
    elif isinstance(d, FloatDistribution):
        yield from (d.low, d.high)


def _text(value: Any) -> str:
    """A value as Hydra reads it: a choice is text already, and a float keeps every digit."""
    return value if isinstance(value, str) else repr(value)
