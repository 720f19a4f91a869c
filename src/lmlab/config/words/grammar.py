"""Reading overrides in Hydra's sweep syntax: which keys one sets, and the numbers of a range."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Override,
    QuotedString,
    RangeSweep,
    Sweep,
)

from lmlab.config.words.hydra_inside import casts, sorts_ranges
from lmlab.errors import LabError


def parse(parser: OverridesParser, text: str) -> Override:
    """One override.

    Raises:
        HydraException: if Hydra cannot read it.
        LabError: for a sweep within a value.
    """
    (override,) = parser.parse_overrides([text])
    value = override.value()
    inner = value.list if isinstance(value, ChoiceSweep) else value
    if isinstance(inner, list | dict) and _holds_sweep(inner):
        raise LabError(f"{text}: a sweep within a value is not taken; write its values one by one")
    return override


def _holds_sweep(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_sweep, value.values()))
    return any(map(_holds_sweep, value)) if isinstance(value, list) else isinstance(value, Sweep)


def key_of(override: Override) -> str:
    """The key or group that it is about."""
    return override.get_key_element().lstrip("+~")


def settings(key: str, value: Any) -> dict[str, Any]:
    """What a value says, key by key: a dict changes the keys that it names, and leaves others."""
    if isinstance(value, Mapping) and value:
        inner = (settings(f"{key}.{name}", one) for name, one in value.items())
        return {name: one for some in inner for name, one in some.items()}
    return {key: value.text if isinstance(value, QuotedString) else value}


def values_of(override: Override) -> list[Any]:
    """What the override says, a value each, except of ranges, intervals and globs."""
    value = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    return [one.text if isinstance(one, QuotedString) else one for one in values]


def keys_set_by(override: Override) -> set[str]:
    """The keys that an override gives values to."""
    key = key_of(override)
    return {name for value in values_of(override) for name in settings(key, value)}


@dataclass(frozen=True)
class Numbers:
    """`size` numbers at equal distances, known without making them."""

    start: Fraction
    step: Fraction
    size: int
    are_whole: bool  # integers, as they were typed
    are_shuffled: bool = False
    casts: tuple[Callable[[Any], Any], ...] = ()

    def __iter__(self) -> Iterator[int | float]:
        order = random.sample(range(self.size), self.size) if self.are_shuffled else None
        return (self[i] for i in order or range(self.size))

    def __getitem__(self, i: int) -> int | float:
        number = self.start + i * self.step
        value: int | float = int(number) if self.are_whole else float(number)
        for cast in self.casts:
            value = cast(value)
        return value

    def in_order(self, descending: bool) -> Numbers:
        if (self.step < 0) == descending:
            return replace(self, are_shuffled=False)
        last = self.start + (self.size - 1) * self.step
        return replace(self, start=last, step=-self.step, are_shuffled=False)


def numbers_of(override: Override) -> Numbers:
    """The numbers of `range(…)`, those of `range(0,0.9,0.3)` by their decimals: three.

    Hydra 1.3 sorts a range from its end, which its step may never come to: `sort(range(10,0,-4))`
    is 4, 8, 12 there, and 2, 6, 10 here.

    Raises:
        LabError: if there is none, or no end of them.
    """
    text, value = str(override.input_line), override.value()
    assert isinstance(value, RangeSweep)
    typed = text.partition("=")[2].strip()
    if not re.search(r"\bsort\s*\(", typed):
        return _numbers(value, text)
    if match := re.fullmatch(r"sort\s*\((.*)\)", typed, re.DOTALL):
        options = [part for part in split(match[1]) if re.match(r"reverse\s*=", part)]
        sweeps = [part for part in split(match[1]) if part not in options]
        inner = re.sub(r"^sweep\s*=", "", sweeps[0])
        unsorted = OverridesParser.create().parse_override(f"{key_of(override)}={inner}")
        descending = any(re.search(r"=\s*true$", option, re.IGNORECASE) for option in options)
        return numbers_of(unsorted).in_order(descending)
    # Something is done to what was sorted, and what that was is not known any more.
    numbers = _numbers(value, text)
    if not sorts_ranges() and (Fraction(str(value.stop)) - numbers.start) % numbers.step:
        raise LabError(f"{text}: Hydra may sort this wrongly; write the range in its order")
    return numbers


def _numbers(value: RangeSweep, text: str) -> Numbers:
    bounds = [value.start, value.stop, value.step]
    if not all(map(math.isfinite, bounds)) or not value.step:  # type: ignore[arg-type]
        raise LabError(f"{text}: a range has an end, and a step that is not 0")
    start, stop, step = (Fraction(str(bound)) for bound in bounds)
    size = max(0, math.ceil((stop - start) / step))
    if not size:
        raise LabError(f"{text}: no number is in this range")
    are_whole = all(isinstance(bound, int) for bound in bounds)
    return Numbers(start, step, size, are_whole, value.shuffle, casts(value))


def split(text: str) -> list[str]:
    """At the commas outside of brackets and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for i, c in enumerate(text):
        if quote:
            quote = "" if c == quote and text[i - 1] != "\\" else quote
        elif c in "'\"":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]
