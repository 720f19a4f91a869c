"""Which code of one's own a config names, and whether it is still what a run was trained with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

from lmlab.config.fingerprint import NOT_IN_FINGERPRINT, under
from lmlab.config.sources import NOT_OWN, code_of_target, source_file
from lmlab.errors import LabError


def code_of(config: dict[str, Any]) -> dict[str, str]:
    """By module: the start of the sha256 of its source, of the code that determines the result.

    `sources.code_of_target` says what is covered; torch is not needed.
    """
    found: dict[str, str] = {}
    for target in _targets(config):
        found |= code_of_target(target)
    return dict(sorted(found.items()))


def changed_code(record: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """The modules that differ from those in a run's record; none if it has kept none.

    A module counts that both have, or that one of them lacks.
    """
    before = record.get("code")
    if not isinstance(before, dict):
        return []
    now = code_of(config)
    return sorted(name for name in before | now if before.get(name) != now.get(name))


def check_same_code(record: dict[str, Any], config: dict[str, Any], what: str) -> None:
    """Refuse a run whose code is not what it was any more; `what` begins the sentence.

    Raises:
        LabError: naming the files.
    """
    if changed := changed_code(record, config):
        files = ", ".join(str(source_file(name) or name) for name in changed)
        raise LabError(f"{what}: {files} changed since it began; put it back, or begin a new run")


@contextmanager
def parts_named(config: dict[str, Any]) -> Iterator[None]:
    """What somebody's own code raises keeps its traceback; its last line names the part."""
    try:
        yield
    except LabError:
        raise
    except Exception as error:
        if (part := _raised_in(error, config)) is not None:
            error.add_note(f"This was raised inside {part}")
        raise


def _raised_in(error: Exception, config: dict[str, Any]) -> str | None:
    """The key and target of the part whose code raised an error; None if it is nobody's own."""
    own = {
        key: target
        for key, target in _keys_and_targets(config)
        if target.partition(".")[0] not in NOT_OWN
    }
    frames = [frame for frame, _ in walk_tb(error.__traceback__)][::-1]
    calls = [(f.f_globals.get("__name__"), f.f_code.co_qualname.split(".")[0]) for f in frames]
    for module, name in calls:
        for key, target in own.items():
            if target == f"{module}.{name}":
                return f"{key}={target}"
    for module, _ in calls:  # what a part calls
        for key, target in own.items():
            if module in code_of_target(target):
                return f"{key}={target}"
    return None


def _keys_and_targets(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every `_target_` of a config with its key, whether it determines the result or not."""
    children: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, dict) else ()
    children = enumerate(node) if isinstance(node, list) else children
    for name, child in children:
        here = f"{key}.{name}" if key else str(name)
        if name == "_target_":
            yield here, str(child)
        else:
            yield from _keys_and_targets(child, here)


def _targets(node: Any, key: str = "") -> Iterator[str]:
    """Every `_target_` of a config, at any depth, that determines the result."""
    if key and under(key, NOT_IN_FINGERPRINT):
        return
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for name, child in node.items():
            yield from _targets(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from _targets(child, f"{key}.{i}")
