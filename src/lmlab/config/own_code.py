"""Which code of one's own a config names, and whether it is still what a run was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmlab.config.fingerprint import NOT_IN_FINGERPRINT, under
from lmlab.config.sources import code_of_target, source_file
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
