"""Which code of one's own a config names, and whether it is still what a run was trained with.

Sources are found and hashed without importing any of them.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from typing import Any

from lmlab.config.fingerprint import NOT_IN_FINGERPRINT, under
from lmlab.config.trust import nodes
from lmlab.errors import LabError

# Their versions are in run.json; the rest of the standard library is Python's.
NOT_OWN = {"lmlab", "hydra_plugins", "torch", "lightning", *sys.stdlib_module_names}


def code_of(config: dict[str, Any]) -> dict[str, str]:
    """By module: the start of the sha256 of its source, of the code that determines the result.

    `code_of_target` says what is covered; torch is not needed.
    """
    code: dict[str, str] = {}
    for key, node in nodes(config):
        if not under(key, NOT_IN_FINGERPRINT):
            code |= code_of_target(str(node["_target_"]))
    return dict(sorted(code.items()))


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


def code_of_target(target: str) -> dict[str, str]:
    """By module: the start of the sha256 of its source, for the code that a `_target_` names.

    That is its module, the packages that it lies in, and whatever these import, directly or not,
    from the same top-level package. Of an installed package it is no more than module and packages:
    following a large library takes seconds. Not covered: imports that are no import statements,
    data files, other packages. Empty for the code of Python, torch, Lightning and this lab.
    """
    top = target.partition(".")[0]
    if top in NOT_OWN:
        return {}
    code: dict[str, str] = {}
    names = _with_packages(target)
    while names:
        name = names.pop()
        path = None if name in code else source_file(name)
        if path is None:
            continue
        code[name], imported = _read(path, name, path.stat().st_mtime_ns)
        if not is_installed(path):
            names |= {n for n in imported if n.partition(".")[0] == top}
    return code


def source_file(name: str) -> Path | None:
    """The file of a module; None if there is none.

    importlib.util.find_spec finds it too, but imports the packages that it lies in.
    """
    top, *parts = name.split(".")
    try:
        spec: ModuleSpec | None = find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    for n in range(len(parts)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        inner = ".".join([top, *parts[: n + 1]])
        spec = PathFinder.find_spec(inner, list(spec.submodule_search_locations))
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    path = Path(spec.origin)
    return path if path.is_file() else None


@lru_cache(maxsize=1024)
def _read(path: Path, name: str, mtime_ns: int) -> tuple[str, frozenset[str]]:
    """The hash of a module's source, and the names of what it may import."""
    source = path.read_bytes()
    imported = {n for module in _imported(source, path, name) for n in _with_packages(module)}
    return hashlib.sha256(source).hexdigest()[:16], frozenset(imported)


def _imported(source: bytes, path: Path, name: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return  # compiled, or not Python: whoever imports it says so
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _with_packages(name: str) -> set[str]:
    """a.b.c, a.b and a."""
    parts = name.split(".")
    return {".".join(parts[: n + 1]) for n in range(len(parts))}


def is_installed(path: Path) -> bool:
    """Whether a file is of an installed package."""
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


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
    targets = {f"{key}._target_": str(node["_target_"]) for key, node in nodes(config)}
    own = {key: t for key, t in targets.items() if t.partition(".")[0] not in NOT_OWN}
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
