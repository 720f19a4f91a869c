"""What a sweep varies, in Hydra's sweep syntax: keys by themselves, keys that go together, and keys
whose values depend on another's.

Keys that go together are one axis with a name of its own, in the spelling that Hydra plans
(docs/design/zipped_sweeps.md in its repository), `size=zip(a=[1,2],b=[32,64])`; or in YAML its rows
one by one, `size: [{a: 1, b: 32}, {a: 2, b: 64}]`, each of which may sweep in turn.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString

from lmlab.errors import LabError

ZIP = re.compile(r"\s*zip\((.*)\)\s*", re.DOTALL)
EXAMPLE = "size=zip(model.n_layer=[1,2],model.n_embd=[32,64])"


@dataclass(frozen=True)
class Row:
    """One value of an axis: the overrides that set it, and what they say, by key."""

    words: tuple[str, ...]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Condition:
    """`optimizer=adam,adamw`: holds where the key has one of the values."""

    text: str
    key: str
    values: tuple[Any, ...]

    def holds(self, chosen: Mapping[str, Any]) -> bool:
        return self.key in chosen and chosen[self.key] in self.values


@dataclass(frozen=True)
class Branch:
    """The values of an axis, under a condition or whenever no condition holds."""

    name: str  # a config key, or the name of keys that go together
    condition: Condition | None
    override: Override | None  # None: keys that go together
    rows: tuple[Row, ...] | None  # None: an interval, which has no end of them

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
            return {self.name}
        return {key for row in self.rows or () for key in row.values}


@dataclass(frozen=True)
class Axes:
    """All axes, those whose values depend on others last; and what no axis changes, as typed."""

    axes: tuple[tuple[Branch, ...], ...]  # of each axis: its branches, the last that holds counts
    fixed: tuple[str, ...]
    fixed_values: Mapping[str, Any]

    @classmethod
    def parse(
        cls,
        params: Mapping[str, Any],
        when: Mapping[str, Mapping[str, Any]],
        arguments: Sequence[str],
        config_loader: ConfigLoader | None = None,
    ) -> Axes:
        """`params` and `when` are those of hydra.sweeper, `arguments` the command line's overrides:
        what these say of a key replaces what the others say.

        Raises:
            LabError: for keys that go together or depend on others and cannot, with what is wrong.
        """
        parser = OverridesParser.create(config_loader=config_loader)
        said = {o.get_key_element(): o for o in parser.parse_overrides(list(arguments))}
        branches: dict[str, list[Branch]] = {}
        for name, values in params.items():
            branches[name] = [_branch(parser, str(name), values, None)]
        known = _values_by_key(branch for found in branches.values() for branch in found)
        typed = [_plain_branch(override, None) for override in said.values()]
        for key, values in _values_by_key(typed).items():
            known[key] = known.get(key, []) + values
        depend: list[str] = []
        for text, of_it in when.items():
            condition = _condition(parser, str(text), known)
            if not isinstance(of_it, Mapping) or not of_it:
                raise LabError(f"hydra.sweeper.when.{text}: give it keys and their values")
            found = [
                _branch(parser, str(name), values, condition) for name, values in of_it.items()
            ]
            for branch in found:
                if condition.key in branch.keys:
                    raise LabError(f"hydra.sweeper.when.{text}: {condition.key} depends on itself")
                branches.setdefault(branch.name, []).append(branch)
                if branch.name not in depend:
                    depend.append(branch.name)
            for key, values in _values_by_key(found).items():
                known[key] = known.get(key, []) + values
        _check_once(branches)
        typed_keys = set(said)
        kept = {name: [_without(b, typed_keys) for b in of] for name, of in branches.items()}
        first = [name for name in kept if name not in depend]
        axes = [tuple(b for b in kept[name] if b is not None) for name in [*first, *depend]]
        axes += [(branch,) for branch in typed if branch.is_swept]
        # A key that others depend on comes before them, wherever it is said.
        axes.sort(key=lambda axis: any(branch.condition is not None for branch in axis))
        fixed = [o for o in said.values() if not o.is_sweep_override()]
        return cls(
            tuple(axis for axis in axes if axis),
            tuple(str(o.input_line) for o in fixed),
            {o.get_key_element(): _plain(o.value()) for o in fixed},
        )

    def jobs(self, rows: Callable[[Branch], Iterable[Row]]) -> Iterator[list[str]]:
        """The overrides of every job, given the rows to take of each branch that comes up."""

        def further(
            n: int, words: tuple[str, ...], chosen: Mapping[str, Any]
        ) -> Iterator[list[str]]:
            if n == len(self.axes):
                yield [*self.fixed, *words]
                return
            branch = _that_holds(self.axes[n], chosen)
            if branch is None:
                yield from further(n + 1, words, chosen)
                return
            for row in rows(branch) if branch.is_swept else branch.rows or ():
                yield from further(n + 1, (*words, *row.words), {**chosen, **row.values})

        return further(0, (), self.fixed_values)

    @property
    def branches(self) -> list[Branch]:
        return [branch for axis in self.axes for branch in axis]

    def towards(self, branch: Branch) -> dict[str, tuple[Any, ...]]:
        """What must be chosen for a branch to come up: values by key."""
        found: dict[str, tuple[Any, ...]] = {}
        while branch.condition is not None:
            condition = branch.condition
            found[condition.key] = condition.values
            sources = [b for b in self.branches if _offers(b, condition)]
            if not sources or any(b.condition is None for b in sources):
                break
            branch = sources[0]
        return found


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


def swept_keys(sweeper: Mapping[str, Any]) -> set[str]:
    """The keys that hydra.sweeper varies, those that go together each by itself."""
    nodes = [sweeper.get("params") or {}, *(sweeper.get("when") or {}).values()]
    found: set[str] = set()
    for node in nodes:
        for name, values in node.items():
            if members := ZIP.fullmatch(str(values)):
                found |= {m.partition("=")[0] for m in _split(members[1])}
            elif _is_rows(values):
                found |= {str(key) for row in values for key in row}
            else:
                found.add(str(name))
    return found


def check_names(params: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse a name for keys that go together that is a key itself.

    Raises:
        LabError: with another name.
    """
    for name, values in params.items():
        together = ZIP.fullmatch(str(values)) or _is_rows(values)
        if together and str(name).partition(".")[0] in config:
            raise LabError(
                f"{name}: it is a key of the config, and keys that go together have a name of "
                f"their own, as in {EXAMPLE}"
            )


def _branch(parser: OverridesParser, name: str, values: Any, condition: Condition | None) -> Branch:
    if _is_rows(values):
        found = [row for settings in values for row in _combinations(parser, name, settings)]
        return Branch(name, condition, None, tuple(found))
    members = ZIP.fullmatch(str(values))
    if members is None:
        return _plain_branch(parser.parse_override(f"{name}={values}"), condition)
    said = f"{name}={str(values).strip()}"
    rows: dict[str, list[tuple[str, Any]]] = {}
    for member in _split(members[1]):
        key, equals, value = member.partition("=")
        if not equals or not key:
            raise LabError(f"{said}: {member} has no key; write {EXAMPLE}")
        if key in rows:
            raise LabError(f"{said}: {key} is there twice")
        if value.startswith("[") and value.endswith("]"):
            value = f"choice({value[1:-1]})"
        override = parser.parse_override(f"{key}={value}")
        if not override.is_discrete_sweep() or getattr(override.value(), "shuffle", False):
            raise LabError(f"{said}: {key} needs a list, key=[a,b,c], or a range in its order")
        words = [f"{key}={text}" for text in override.sweep_string_iterator()]
        rows[key] = [(word, _plain(parser.parse_override(word).value())) for word in words]
    if len(rows) < 2:
        raise LabError(f"{said}: two keys at least go together, as in {EXAMPLE}")
    (first, of_first), *others = rows.items()
    for key, of_key in others:
        if len(of_key) != len(of_first):
            raise LabError(
                f"{said}: {first} has {len(of_first)} values and {key} {len(of_key)}; keys that go "
                "together have as many each"
            )
    zipped = [
        Row(
            tuple(word for word, _ in members),
            {key: value for key, (_, value) in zip(rows, members, strict=True)},
        )
        for members in zip(*rows.values(), strict=True)
    ]
    return Branch(name, condition, None, tuple(zipped))


def _is_rows(values: Any) -> bool:
    """Whether it is the rows of an axis, one by one."""
    return isinstance(values, Sequence) and not isinstance(values, str)


def _combinations(parser: OverridesParser, name: str, settings: Any) -> Iterator[Row]:
    """Every combination of what one row of an axis says, each as a row of its own."""
    if not isinstance(settings, Mapping) or not settings:
        raise LabError(f"{name}: give it rows of keys and values, such as {{a: 1, b: 32}}")
    overrides = [parser.parse_override(f"{key}={value}") for key, value in settings.items()]
    branches = [_plain_branch(override, None) for override in overrides]
    for parts in itertools.product(*map(every_row, branches)):
        words = tuple(word for part in parts for word in part.words)
        yield Row(words, {key: value for part in parts for key, value in part.values.items()})


def _plain_branch(override: Override, condition: Condition | None) -> Branch:
    key = override.get_key_element()
    if not override.is_sweep_override():
        row = Row((str(override.input_line),), {key: _plain(override.value())})
        return Branch(key, condition, override, (row,))
    if not override.is_discrete_sweep():
        return Branch(key, condition, override, None)
    parser = OverridesParser.create()
    words = dict.fromkeys(f"{key}={text}" for text in override.sweep_string_iterator())
    rows = tuple(Row((w,), {key: _plain(parser.parse_override(w).value())}) for w in words)
    return Branch(key, condition, override, rows)


def _condition(parser: OverridesParser, text: str, known: Mapping[str, Sequence[Any]]) -> Condition:
    said = f"hydra.sweeper.when.{text}"
    key, equals, values = text.partition("=")
    if not equals or not values:
        raise LabError(f"{said}: a condition is a key and its value, such as optimizer=adamw")
    if key not in known:
        axes = ", ".join(known) or "none"
        raise LabError(f"{said}: no axis has {key} (there is {axes})")
    branch = _plain_branch(parser.parse_override(text), None)
    wanted = tuple(row.values[key] for row in branch.rows or ())
    if branch.rows is None:
        raise LabError(f"{said}: a condition names values, and an interval has no end of them")
    for value in wanted:
        if value not in known[key] and ... not in known[key]:
            taken = ", ".join(map(str, dict.fromkeys(known[key])))
            raise LabError(f"{said}: {key} never is {value} (it is {taken})")
    return Condition(text, key, wanted)


def _values_by_key(branches: Iterable[Branch]) -> dict[str, list[Any]]:
    """The values that each key takes; an interval's are `...`."""
    found: dict[str, list[Any]] = {}
    for branch in branches:
        if branch.rows is None:
            found.setdefault(branch.name, []).append(...)
        for row in branch.rows or ():
            for key, value in row.values.items():
                found.setdefault(key, []).append(value)
    return found


def _check_once(branches: Mapping[str, Sequence[Branch]]) -> None:
    """Refuse two axes for one key."""
    of_key: dict[str, str] = {}
    for name, found in branches.items():
        for key in sorted({key for branch in found for key in branch.keys}):
            if of_key.setdefault(key, name) != name:
                raise LabError(f"{key} is of two axes, {of_key[key]} and {name}: leave one out")


def _without(branch: Branch, keys: set[str]) -> Branch | None:
    """The branch without what is said elsewhere; None if nothing is left."""
    if not branch.keys & keys:
        return branch
    if branch.override is not None or not branch.keys - keys:
        return None
    rows = []
    for row in branch.rows or ():
        both = zip(row.words, row.values.items(), strict=True)
        left = [(word, item) for word, item in both if item[0] not in keys]
        rows.append(Row(tuple(word for word, _ in left), dict(item for _, item in left)))
    once = {row.words: row for row in rows}
    return Branch(branch.name, branch.condition, None, tuple(once.values()))


def _that_holds(axis: Sequence[Branch], chosen: Mapping[str, Any]) -> Branch | None:
    for branch in reversed(axis):
        if branch.condition is None or branch.condition.holds(chosen):
            return branch
    return None


def _offers(branch: Branch, condition: Condition) -> bool:
    return any(row.values.get(condition.key, ...) in condition.values for row in branch.rows or ())


def _split(text: str) -> list[str]:
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


def _plain(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value
