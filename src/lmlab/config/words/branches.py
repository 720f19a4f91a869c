"""One axis of a sweep, under one condition: a list, a range, or rows of keys that go together."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer

from lmlab.config.words.grammar import (
    Numbers,
    key_of,
    keys_set_by,
    numbers_of,
    parse,
    settings,
    split,
)
from lmlab.config.words.python_words import canonical
from lmlab.errors import LabError

ZIP = re.compile(r"\s*zip\((.*)\)\s*", re.DOTALL)
EXAMPLE = "size=zip(model.n_layer=[1,2],model.n_embd=[32,64])"
LONG = 100_000  # numbers of a range that are not compared one by one


@dataclass(frozen=True)
class Row:
    """One value of an axis: the overrides that set it, each with what it says, by key."""

    settings: tuple[tuple[str, Mapping[str, Any]], ...]

    @classmethod
    def of(cls, override: Override) -> Row:
        values = settings(key_of(override), override.value())
        return cls(((str(override.input_line), values),))

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(word for word, _ in self.settings)

    @property
    def values(self) -> dict[str, Any]:
        return {key: value for _, values in self.settings for key, value in values.items()}

    @property
    def identity(self) -> str:
        """A text that rows share which set the same: by 1e-3 and 0.001, but not by 1 and true."""
        return canonical([[word.partition("=")[0], values] for word, values in self.settings])


@dataclass(frozen=True)
class Condition:
    """`optimizer=adam,adamw`: holds where the key has one of the values."""

    text: str
    key: str
    values: tuple[Any, ...]

    def holds(self, chosen: Mapping[str, Any]) -> bool:
        return self.key in chosen and is_among(chosen[self.key], self.values)


@dataclass(frozen=True)
class Branch:
    """The values of an axis, under a condition or whenever no condition holds."""

    name: str  # a config key, or the name of keys that go together
    condition: Condition | None
    override: Override | None  # None: keys that go together
    given: tuple[Row, ...] = ()  # of keys that go together

    @property
    def label(self) -> str:
        """What a study calls it: each condition has its own values, and learns from them only."""
        return self.name if self.condition is None else f"{self.name} [{self.condition.text}]"

    @property
    def is_swept(self) -> bool:
        return self.override is None or self.override.is_sweep_override()

    @property
    def keys(self) -> set[str]:
        if self.override is not None:
            return keys_set_by(self.override)
        return {key for row in self.given for key in row.values}

    @cached_property
    def numbers(self) -> Numbers | None:
        """Those of a range."""
        if self.override is None or not self.override.is_range_sweep():
            return None
        return numbers_of(self.override)

    @cached_property
    def rows(self) -> tuple[Row, ...] | None:
        """None: an interval, which has no end of them."""
        if self.override is None:
            return self.given
        if not self.override.is_sweep_override():
            return (Row.of(self.override),)
        if not self.override.is_discrete_sweep():
            return None
        rows = _each_once(self.listed())
        if not rows:
            raise LabError(f"{self.override.input_line}: no option is like this")
        return rows

    def listed(self) -> Iterator[Row]:
        """The values of a list or a range as they were typed, maybe some of them twice."""
        assert self.override is not None
        if self.numbers is not None:
            texts: Iterator[str] = map(Transformer.str, self.numbers)
        else:
            texts = self.override.sweep_string_iterator()
        return map(self.row, texts)

    def row(self, text: str) -> Row:
        """The one that gives its key a value, as it is typed."""
        assert self.override is not None
        word = f"{self.override.get_key_element()}={text}"
        return Row.of(OverridesParser.create().parse_override(word))

    @property
    def size(self) -> int:
        """How many rows there are, without making those of a range.

        Raises:
            LabError: if there is no end of them.
        """
        return len(every_row(self)) if self.numbers is None else self.numbers.size

    def values(self, key: str) -> list[Any]:
        """What it says of a key; `...` stands for any."""
        if key not in self.keys:
            return []
        if self.rows is None or (self.numbers is not None and self.numbers.size > LONG):
            return [...]
        return [row.values[key] for row in self.rows if key in row.values]

    def without(self, keys: set[str]) -> Branch | None:
        """The branch without what is said of some keys elsewhere; None if nothing is left.

        Raises:
            LabError: if that is a part of a dict.
        """
        if not self.keys & keys:
            return self
        if self.keys <= keys:
            return None
        rows = []
        for row in self.rows or ():
            left = [(word, values) for word, values in row.settings if not values.keys() <= keys]
            for word, values in left:
                if twice := sorted(values.keys() & keys):
                    raise LabError(f"{twice[0]} is given twice, also in {word}: leave one out")
            rows.append(Row(tuple(left)))
        return Branch(self.name, self.condition, None, _each_once(rows))


def every_row(branch: Branch) -> tuple[Row, ...]:
    """For a sweep that tries everything.

    Raises:
        LabError: if there is no end of it.
    """
    if branch.rows is None:
        assert branch.override is not None
        raise LabError(
            f"{branch.override.input_line}: a grid tries every value, so it needs a list or a "
            "range; hydra/sweeper=optuna searches between bounds"
        )
    return branch.rows


def read_branch(
    parser: OverridesParser, name: str, values: Any, condition: Condition | None
) -> Branch:
    """An axis as hydra.sweeper has it.

    Raises:
        LabError: for what makes no axis.
    """
    if is_rows(values):
        rows = [row for one in values for row in _combinations(parser, name, one)]
        if not rows:
            raise LabError(f"{name}: it has no rows; give it some, or leave it out")
        return Branch(name, condition, None, _each_once(rows))
    if isinstance(values, Mapping):
        raise LabError(f"{name}: give it values, such as '1,2', or rows, [{{a: 1}}, {{a: 2}}]")
    if ZIP.fullmatch(str(values)):
        zipped = _zipped(parser, f"{name}={str(values).strip()}")
        return Branch(name, condition, None, _each_once(zipped))
    return Branch(name, condition, parse(parser, f"{name}={values}"))


def is_among(value: Any, values: Iterable[Any]) -> bool:
    """Whether a value is one of some, as a config has them."""
    return canonical(value) in map(canonical, values)


def is_rows(values: Any) -> bool:
    """Whether it is the rows of an axis, one by one."""
    return isinstance(values, Sequence) and not isinstance(values, str)


def members_of(values: Any) -> list[str]:
    """`key=[…]` of each of the keys that go together; nothing if none do."""
    match = ZIP.fullmatch(str(values))
    return [] if match is None else split(match[1])


def _zipped(parser: OverridesParser, text: str) -> Iterator[Row]:
    """The rows of `name=zip(key=[…],…)`."""
    members: dict[str, Branch] = {}
    for member in members_of(text.partition("=")[2]):
        key, equals, value = member.partition("=")
        if not equals or not key:
            raise LabError(f"{text}: {member} has no key; write {EXAMPLE}")
        if key in members:
            raise LabError(f"{text}: {key} is there twice")
        if re.fullmatch(r"\[\s*\]", value):
            raise LabError(f"{text}: {key} has no values")
        if value.startswith("[") and value.endswith("]"):
            value = f"choice({value[1:-1]})"
        override = parse(parser, f"{key}={value}")
        if not override.is_discrete_sweep() or getattr(override.value(), "shuffle", False):
            raise LabError(f"{text}: {key} needs a list, key=[a,b,c], or a range in its order")
        members[key] = Branch(key, None, override)
    if len(members) < 2:
        raise LabError(f"{text}: two keys at least go together, as in {EXAMPLE}")
    sizes = {
        key: len(list(branch.listed())) if branch.numbers is None else branch.numbers.size
        for key, branch in members.items()
    }
    (first, size), *others = sizes.items()
    for key, other in others:
        if other != size:
            raise LabError(
                f"{text}: {first} has {size} values and {key} {other}; keys that go "
                "together have as many each"
            )
    if size > LONG:
        raise LabError(f"{text}: {size:,} values; keys that go together have at most {LONG:,}")
    return map(_joined, zip(*(b.listed() for b in members.values()), strict=True))


def _combinations(parser: OverridesParser, name: str, one: Any) -> Iterator[Row]:
    """Every combination of what one row of an axis says, each as a row of its own."""
    if not isinstance(one, Mapping) or not one:
        raise LabError(f"{name}: give it rows of keys and values, such as {{a: 1, b: 32}}")
    branches = [
        Branch(str(key), None, parse(parser, f"{key}={value}")) for key, value in one.items()
    ]
    for rows in itertools.product(*map(every_row, branches)):
        yield _joined(rows)


def _each_once(rows: Iterable[Row]) -> tuple[Row, ...]:
    once: dict[str, Row] = {}
    for row in rows:
        once.setdefault(row.identity, row)
    return tuple(once.values())


def _joined(rows: Iterable[Row]) -> Row:
    """What several rows say, as one."""
    return Row(tuple(setting for row in rows for setting in row.settings))
