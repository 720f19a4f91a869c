"""Which file brought a key that is refused: an experiment, or a sweep, is made for certain options,
and sets keys that others do not have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

BRINGING = ("sweep", "experiment")  # the groups whose options set keys of other groups


def brought(unknown: Sequence[tuple[str, Any]], others: int = 0) -> str | None:
    """What to say of keys that are refused, each with its value, where a file brought the first.

    `others` are further problems, which are none of unknown keys. None where nobody but the user
    can have set the key, or outside a command of Hydra's.
    """
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    folders = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
    choices, words = dict(hydra.runtime.choices), list(hydra.overrides.task)
    choices = {**_chosen_by(choices.get("sweep"), folders), **choices}
    typed = {word.lstrip("+").partition("=")[0] for word in words}

    def bringer(key: str) -> tuple[str, Path] | None:
        if key in typed:
            return None
        for group in BRINGING:
            option = choices.get(group)
            if option and (path := file_that_sets(key, group, option, folders)):
                return f"{group}={option}", path
        return None

    key, value = unknown[0]
    if (brings := bringer(key)) is None:
        return None
    choice, path = brings
    group = key.partition(".")[0]
    taker = f"{group}={choices[group]}" if choices.get(group) else group
    away = {k: v for k, v in unknown if k.partition(".")[0] == group and bringer(k)}
    advice = [f"leave {taker} out"] if taker in words else []
    if len(away) == len(unknown) + others and None not in away.values():
        # It would be of no use where more is wrong, and Hydra does not delete a null.
        advice.append(f"take away what it does not take: ~{' ~'.join(away)}")
    return (
        f"{choice} sets {key}={value!r} ({shown(path)}), which {taker} does not take: "
        f"{', or '.join(advice) or f'leave {choice} out'}"
    )


def _chosen_by(sweep: str | None, folders: Sequence[Path]) -> dict[str, str]:
    """The experiment of a named sweep, by group: written as a list, `override /experiment: [a/b]`,
    it is no choice in Hydra's books."""
    for _, content in _files("sweep", sweep, folders) if sweep else ():
        for entry in content.get("defaults") or []:
            options = entry.get("override /experiment") if isinstance(entry, dict) else None
            if isinstance(options, list) and options:
                return {"experiment": str(options[-1])}
    return {}


def file_that_sets(key: str, group: str, option: str, folders: Sequence[Path]) -> Path | None:
    """The file of an option, or of those that it is built on, that has a value for a key."""
    for path, content in _files(group, option, folders):
        *outer, last = key.split(".")
        node: Any = content
        for name in outer:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node:
            return path
    return None


def file_that_varies(key: str, sweep: str, folders: Sequence[Path]) -> Path | None:
    """The file of a named sweep, if the key is one of its axes."""
    from lmlab.config.words.axes import swept_keys

    for path, content in _files("sweep", sweep, folders):
        sweeper = (content.get("hydra") or {}).get("sweeper") or {}
        if key in swept_keys(sweeper):
            return path
    return None


def shown(path: Path) -> str:
    """A path as it can be opened from here."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


def _files(
    group: str, option: str, folders: Sequence[Path]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The file of an option, then those that it names in its defaults; each with what it holds."""
    paths = (folder / group / f"{option}.yaml" for folder in folders)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    if isinstance(content, dict):
        yield path, content
        for entry in content.get("defaults") or []:
            if isinstance(entry, str) and entry != "_self_":
                yield from _files(group, entry.removeprefix(f"/{group}/"), folders)
