"""The source of somebody's own code, found and hashed without importing any of it."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

# Their versions are in run.json; the rest of the standard library is Python's.
NOT_OWN = {"lmlab", "hydra_plugins", "torch", "lightning", *sys.stdlib_module_names}


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
    found: dict[str, str] = {}
    names = _with_packages(target)
    while names:
        name = names.pop()
        path = None if name in found else source_file(name)
        if path is None:
            continue
        found[name], imported = _read(path, name, path.stat().st_mtime_ns)
        if not _is_installed(path):
            names |= {n for n in imported if n.partition(".")[0] == top}
    return found


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


def _is_installed(path: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
