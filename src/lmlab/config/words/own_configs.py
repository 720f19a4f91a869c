"""The files of a --config-dir that are chosen, looked at before Hydra reads them: one that names
itself, or that grows a millionfold as it is read, would keep Hydra busy for ever."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lmlab.errors import LabError

MOST_NODES = 100_000  # of a file, once every alias stands for what it names


def check_own_configs(folder: Path, words: Sequence[str]) -> None:
    """Check the options that `words` choose in a folder of configs, and those they are built on.

    What else may be wrong with a file, Hydra says.

    Raises:
        LabError: for a file that Hydra would not come to the end of.
    """
    chosen = {
        key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words) if value
    }
    for group, options in chosen.items():
        for option in options.split(","):
            _check(folder, posixpath.join(group.partition("@")[0], option), chosen, ())


def _check(folder: Path, name: str, chosen: dict[str, str], above: tuple[str, ...]) -> None:
    if name in above:
        raise LabError(f"{folder / above[0]}.yaml: its defaults lead back to {name}")
    path = folder / f"{name}.yaml"
    try:
        if not path.is_file():
            return
        node = yaml.compose(path.read_text("utf-8"), yaml.SafeLoader)
        if node is not None and _size(node, {}) > MOST_NODES:
            raise LabError(f"{path}: its aliases stand for more than {MOST_NODES:,} values")
        content = {} if node is None else yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return
    defaults = content.get("defaults") if isinstance(content, dict) else None
    for other in _names(defaults, posixpath.dirname(name), chosen):
        _check(folder, other, chosen, (*above, name))


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node holds, those of aliases counted each time."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_NODES + 1  # what it is, where it holds itself
    inner: list[Any] = node.value if isinstance(node.value, list) else []
    children = [one for pair in inner for one in (pair if isinstance(pair, tuple) else (pair,))]
    known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _names(defaults: Any, group: str, chosen: dict[str, str]) -> Iterator[str]:
    """The configs that a defaults list names, from the folder's root on."""
    for entry in defaults if isinstance(defaults, list) else []:
        pairs = entry.items() if isinstance(entry, dict) else [("", entry)]
        for key, options in pairs:
            if str(key).startswith("override ") or entry == "_self_":
                continue
            for option in options if isinstance(options, list) else [options]:
                key = re.sub(r"^optional ", "", str(key)).partition("@")[0]
                option = re.sub(r"\$\{(.+?)\}", lambda m: chosen.get(m[1], ""), str(option))
                name = posixpath.join("/", group, key, option)
                yield posixpath.normpath(name).lstrip("/")
