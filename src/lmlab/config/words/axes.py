"""What a sweep varies, in Hydra's sweep syntax: keys by themselves, keys that go together, and keys
whose values depend on another's.

Keys that go together are one axis with a name of its own, in the spelling that Hydra plans
(docs/design/zipped_sweeps.md in its repository), `size=zip(a=[1,2],b=[32,64])`; or in YAML its rows
one by one, `size: [{a: 1, b: 32}, {a: 2, b: 64}]`, each of which may sweep in turn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser

from lmlab.config.fingerprint import under
from lmlab.config.words.branches import (
    EXAMPLE,
    Branch,
    Condition,
    Row,
    every_row,
    is_among,
    is_rows,
    members_of,
    read_branch,
)
from lmlab.config.words.grammar import key_of, keys_set_by, parse, values_of
from lmlab.errors import LabError


@dataclass(frozen=True)
class Axes:
    """All axes, those whose values depend on others last; and what no axis changes, as typed."""

    # In the order in which a job says them: what is fixed, and axes by their branches, of which
    # the last that holds counts.
    parts: tuple[Row | tuple[Branch, ...], ...]

    @classmethod
    def parse(
        cls,
        params: Mapping[str, Any],
        when: Mapping[str, Mapping[str, Any]],
        arguments: Sequence[str],
        config_loader: ConfigLoader | None = None,
        config: Collection[Any] = (),
    ) -> Axes:
        """`params` and `when` are those of hydra.sweeper, `arguments` the command line's overrides:
        what these say of a key replaces what the others say. `config` has the keys that are none
        of an axis's own name.

        Raises:
            LabError: for keys that go together or depend on others and cannot, with what is wrong.
        """
        parser = OverridesParser.create(config_loader=config_loader)
        if not isinstance(params, Mapping):
            raise LabError(f"hydra.sweeper.params={params}: give it keys and their values")
        branches: dict[str, list[Branch]] = {}
        for name, values in params.items():
            branches[name] = [read_branch(parser, str(name), values, None)]
            if branches[name][0].override is None and str(name).partition(".")[0] in config:
                raise LabError(
                    f"{name}: it is a key of the config, and keys that go together have a name of "
                    f"their own, as in {EXAMPLE}"
                )
        overrides = [parse(parser, argument) for argument in arguments]
        typed = [Branch(override.get_key_element(), None, override) for override in overrides]
        known = [*(branch for several in branches.values() for branch in several), *typed]
        if not isinstance(when, Mapping):
            raise LabError(f"hydra.sweeper.when={when}: give it conditions and their keys")
        depend: list[str] = []
        for text, axes_then in when.items():
            condition = _condition(parser, str(text), known)
            if not isinstance(axes_then, Mapping) or not axes_then:
                raise LabError(f"hydra.sweeper.when.{text}: give it keys and their values")
            under = [
                read_branch(parser, str(name), values, condition)
                for name, values in axes_then.items()
            ]
            for branch in under:
                if condition.key in branch.keys:
                    raise LabError(f"hydra.sweeper.when.{text}: {condition.key} depends on itself")
                branches.setdefault(branch.name, []).append(branch)
                if branch.name not in depend:
                    depend.append(branch.name)
            known += under
        _check_once(branches)
        typed_keys = {key for branch in typed for key in branch.keys}
        kept = {
            name: tuple(b for b in (b.without(typed_keys) for b in several) if b is not None)
            for name, several in branches.items()
        }
        first = [name for name in kept if name not in depend]
        axes = [kept[name] for name in [*first, *depend] if kept[name]]
        first_words, words = _in_order(_last_words(typed))
        # A key that others depend on comes before them, wherever it is said.
        return cls((*first_words, *sorted([*axes, *words], key=_depends)))

    def jobs(self, rows: Callable[[Branch], Iterable[Row]]) -> Iterator[list[str]]:
        """The overrides of every job, given the rows to take of each branch that comes up."""

        def further(
            n: int, words: tuple[str, ...], chosen: Mapping[str, Any]
        ) -> Iterator[list[str]]:
            if n == len(self.parts):
                yield list(words)
                return
            part = self.parts[n]
            for row in (part,) if isinstance(part, Row) else taken(part, chosen):
                yield from further(n + 1, (*words, *row.words), {**chosen, **row.values})

        def taken(axis: Sequence[Branch], chosen: Mapping[str, Any]) -> Iterable[Row]:
            branch = _that_holds(axis, chosen)
            if branch is None:
                return [Row(())]
            return rows(branch) if branch.is_swept else branch.rows or ()

        # What is fixed holds wherever it is said.
        fixed = [part.values for part in self.parts if isinstance(part, Row)]
        return further(0, (), {key: value for values in fixed for key, value in values.items()})

    def check_size(self, most: int) -> None:
        """Refuse more jobs than are wanted, without making them.

        Raises:
            LabError: with their number.
        """
        always = [branch for axis in self.axes for branch in axis[:1] if not _depends(axis)]
        sizes = {branch.name: branch.size for branch in always}
        n_jobs, is_all = math.prod(sizes.values()), len(always) == len(self.axes)
        n_jobs = max(n_jobs, *(branch.size for branch in self.branches), 1)
        if n_jobs <= most and not is_all:
            n_jobs = sum(1 for _ in itertools.islice(self.jobs(every_row), most + 1))
        if n_jobs > most:
            of_each = ", ".join(f"{name} has {_count(size)} values" for name, size in sizes.items())
            raise LabError(
                f"{'' if is_all else 'at least '}{_count(n_jobs)} jobs ({of_each}), and at most "
                f"sweep.max_jobs={most:,} are begun: give fewer values, or a larger sweep.max_jobs"
            )

    @property
    def axes(self) -> list[tuple[Branch, ...]]:
        return [part for part in self.parts if not isinstance(part, Row)]

    @property
    def fixed(self) -> list[str]:
        return [word for part in self.parts if isinstance(part, Row) for word in part.words]

    @property
    def branches(self) -> list[Branch]:
        return [branch for axis in self.axes for branch in axis]

    def towards(self, branch: Branch) -> dict[str, tuple[Any, ...]]:
        """What must be chosen for a branch to come up: values by key."""
        chosen: dict[str, tuple[Any, ...]] = {}
        while branch.condition is not None:
            condition = branch.condition
            chosen[condition.key] = condition.values
            sources = [b for b in self.branches if _offers(b, condition)]
            if not sources or any(b.condition is None for b in sources):
                break
            branch = sources[0]
        return chosen


def swept_keys(sweeper: Mapping[str, Any]) -> set[str]:
    """The keys that hydra.sweeper varies, those that go together each by itself."""
    nodes = [sweeper.get("params") or {}, *(sweeper.get("when") or {}).values()]
    keys: set[str] = set()
    for node in nodes:
        for name, values in node.items():
            if members := members_of(values):
                keys |= {member.partition("=")[0] for member in members}
            elif is_rows(values):
                keys |= {str(key) for row in values for key in row}
            elif "{" in str(values):  # dicts
                keys |= keys_set_by(OverridesParser.create().parse_override(f"{name}={values}"))
            else:
                keys.add(str(name))
    return keys


def _count(n: int) -> str:
    return f"{n:,}" if n < 10**18 else "10^18 or more"


def _last_words(typed: Sequence[Branch]) -> list[Branch]:
    """What is typed; of an axis whose key has another value further on, the first value alone.

    A dict replaces nothing: it changes the keys that it names. An option of a group and a dict of
    the group's name are two things, and both count.
    """
    settled: set[str] = set()
    kept = []
    for branch in reversed(typed):
        override = branch.override
        assert override is not None
        key, is_dict = key_of(override), any(isinstance(v, Mapping) for v in values_of(override))
        if branch.is_swept and key in settled and not is_dict:
            if branch.rows is None:  # an interval, which has no first value
                continue
            word = every_row(branch)[0].words[0]
            kept.append(Branch(branch.name, None, OverridesParser.create().parse_override(word)))
        else:
            kept.append(branch)
        if not is_dict and not override.is_delete():
            settled.add(key)
    return kept[::-1]


def _in_order(
    typed: Sequence[Branch],
) -> tuple[list[Row], list[Row | tuple[Branch, ...]]]:
    """What is fixed, and then what is swept, with the fixed words that come after a swept one on
    the same key: there the last word counts."""
    first: list[Row] = []
    then: list[Row | tuple[Branch, ...]] = []
    keys: set[str] = set()  # of what comes then
    for branch in typed:
        own = branch.keys | {branch.name.lstrip("+~")}
        after = any(under(a, (b,)) or under(b, (a,)) for a in own for b in keys)
        if not branch.is_swept and not after:
            first += every_row(branch)
            continue
        keys |= own
        then.append((branch,) if branch.is_swept else every_row(branch)[0])
    return first, then


def _depends(part: Row | Sequence[Branch]) -> bool:
    """Whether it is an axis whose values depend on another's."""
    return not isinstance(part, Row) and any(branch.condition is not None for branch in part)


def _condition(parser: OverridesParser, text: str, known: Sequence[Branch]) -> Condition:
    at = f"hydra.sweeper.when.{text}"
    key, equals, values = text.partition("=")
    if not equals or not values:
        raise LabError(f"{at}: a condition is a key and its value, such as optimizer=adamw")
    taken = [value for branch in known for value in branch.values(key)]
    if not taken:
        axes = ", ".join(dict.fromkeys(key for branch in known for key in branch.keys)) or "none"
        raise LabError(f"{at}: no axis has {key} (there is {axes})")
    branch = Branch(key, None, parse(parser, text))
    if branch.rows is None:
        raise LabError(f"{at}: a condition names values, and an interval has no end of them")
    wanted = tuple(value for row in branch.rows for value in row.values.values())
    for value in wanted:
        if ... not in taken and not is_among(value, taken):
            others = ", ".join(dict.fromkeys(map(str, taken)))
            raise LabError(f"{at}: {key} never is {value} (it is {others})")
    return Condition(text, key, wanted)


def _check_once(branches: Mapping[str, Sequence[Branch]]) -> None:
    """Refuse two axes for one key."""
    of_key: dict[str, str] = {}
    for name, several in branches.items():
        for key in sorted({key for branch in several for key in branch.keys}):
            if of_key.setdefault(key, name) != name:
                raise LabError(f"{key} is of two axes, {of_key[key]} and {name}: leave one out")


def _that_holds(axis: Sequence[Branch], chosen: Mapping[str, Any]) -> Branch | None:
    for branch in reversed(axis):
        if branch.condition is None or branch.condition.holds(chosen):
            return branch
    return None


def _offers(branch: Branch, condition: Condition) -> bool:
    values = branch.values(condition.key)
    return ... in values or any(is_among(value, condition.values) for value in values)
