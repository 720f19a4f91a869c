"""The source of some classes, and of all that they need, as one file without the lab.

Sources are read, not imported. What is taken along is found by its name: each definition that a
definition mentions, from whichever module it comes. Python's own modules, torch, numpy and
transformers stay imports; what others have installed is refused.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from lmlab.config.own_code import is_installed, source_file
from lmlab.errors import LabError

THERE = {"torch", "numpy", "transformers", *sys.stdlib_module_names}  # where the file is loaded
# What is written in place of a definition: where it is loaded nobody prints one line of an error.
INSTEAD = {("lmlab.errors", "LabError"): "LabError = ValueError"}
WIDTH = 100


@dataclass(frozen=True)
class Module:
    """A source file, by the names that it gives at its top."""

    name: str
    lines: list[bytes]
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # module, name in it
    loose: list[ast.stmt] = field(default_factory=list)  # done in passing


class Source:
    """What has been taken so far."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[str, str]] = defaultdict(dict)  # text, by module and name
        self._above: dict[str, set[str]] = defaultdict(set)  # by module: those that it needs
        self._imports: set[str] = set()  # lines
        self._claimed: dict[str, str] = {}  # by name: what alone may have it
        self._modules: dict[str, Module] = {}

    def take(self, target: str, instead: str = "") -> str:
        """Take along a class or function by its dotted name, and all that it needs; returns what it
        is called in the file. `instead` is written in its place, and may name all that was taken.

        Raises:
            LabError: if its source cannot stand there.
        """
        module, _, name = target.rpartition(".")
        top = target.partition(".")[0]
        if top in THERE:
            self._import(module, None, top)
            return target
        return self._take(module, name, instead)

    def text(self, about: str) -> str:
        """The file, with `about` as its docstring.

        Raises:
            LabError: if a module does something in passing to what was taken of it.
        """
        try:
            in_order = [*TopologicalSorter(self._above).static_order()]
        except CycleError as error:
            raise LabError(f"modules import each other: {', '.join(error.args[1])}") from error
        text = f'"""{about}"""\n\nfrom __future__ import annotations\n\n{self._import_lines()}'
        for name in in_order:
            taken, module = self._taken[name], self._module(name)
            for stmt in module.loose:
                if touched := [n.id for n in _names(module, stmt) if n.id in taken]:
                    raise LabError(f"{name}, line {stmt.lineno}, does something to {touched[0]}")
            if taken:
                text += "\n\n\n" + f"# --- {name} ".ljust(WIDTH, "-")
                gap = "\n\n"  # below the title; short lines follow each other at once
                for part in dict.fromkeys(taken[n] for n in module.definitions if n in taken):
                    is_short = "\n" not in part
                    text += (gap if is_short or gap == "\n\n" else "\n\n\n") + part
                    gap = "\n" if is_short else "\n\n\n"
        return text + "\n"

    def _import_lines(self) -> str:
        """Python's own imports, then the others; each module's on a line."""
        names: dict[str, list[str]] = defaultdict(list)
        for line in self._imports:
            if line.startswith("from "):
                module, _, name = line.partition(" import ")
                names[f"{module} import "].append(name)
        lines = {line for line in self._imports if line.startswith("import ")}
        lines |= {start + ", ".join(sorted(of_module)) for start, of_module in names.items()}
        groups: dict[bool, list[str]] = {True: [], False: []}
        for line in sorted(lines, key=lambda line: (line.startswith("from"), line.lower())):
            groups[line.split()[1].partition(".")[0] in sys.stdlib_module_names].append(line)
        return "\n\n".join("\n".join(group) for group in groups.values())

    def _take(self, module_name: str, name: str, instead: str = "") -> str:
        module = self._module(module_name)
        if name in module.imports:
            return self._follow(module, name)
        stmt = module.definitions.get(name)
        if stmt is None:
            raise LabError(f"{module_name} has no {name} whose source can be told")
        self._claim(name, f"{module_name}.{name}")
        if instead:
            self._above[module_name].update(self._taken)
        taken = self._taken[module_name]
        if name not in taken:
            instead = instead or INSTEAD.get((module_name, name), "")
            taken[name] = instead or _written(module, stmt)
            for needed in () if instead else _names(module, stmt):
                if needed.id in module.definitions and needed.id != name:
                    self._take(module_name, needed.id)
                elif needed.id in module.imports:
                    self._follow(module, needed.id)
            for inner in ast.walk(stmt):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    for inside, _ in _imported(inner, module_name).values():
                        if inside.partition(".")[0] not in THERE:
                            raise LabError(f"{name} imports {inside} while it runs")
        return name

    def _follow(self, module: Module, name: str) -> str:
        """Take along what a module imports under a name."""
        origin, original = module.imports[name]
        if origin.partition(".")[0] in THERE:
            self._import(origin, original, name)
            return name
        _check_there(origin)
        if original is None:
            raise LabError(f"{module.name} imports {origin} as a whole, not names from it")
        if original != name:
            raise LabError(f"{module.name} imports {original} under the name {name}")
        self._above[module.name].add(origin)
        return self._take(origin, original)

    def _import(self, module: str, original: str | None, name: str) -> None:
        line = f"import {module}" if original is None else f"from {module} import {original}"
        if name not in (module.partition(".")[0], original):
            line += f" as {name}"
        self._claim(name, line if original or " as " in line else f"import {name}")
        self._imports.add(line)

    def _module(self, name: str) -> Module:
        if name not in self._modules:
            self._modules[name] = _read(name)
            self._above[name] = set()
        return self._modules[name]

    def _claim(self, name: str, what: str) -> None:
        if self._claimed.setdefault(name, what) != what:
            raise LabError(f"two of its parts are called {name}: {self._claimed[name]}, and {what}")


def _check_there(module: str) -> None:
    top = module.partition(".")[0]
    path = source_file(module)
    if top != "lmlab" and path is not None and is_installed(path):
        raise LabError(f"it needs the package {top}, not torch and transformers alone")


def _read(name: str) -> Module:
    path = source_file(name)
    if path is None or path.suffix != ".py":
        raise LabError(f"the source of {name} is not there")
    return _parsed(name, path)


def _parsed(name: str, path: Path) -> Module:
    source = path.read_bytes()
    module = Module(name, source.splitlines(keepends=True))
    for stmt in ast.parse(source).body:
        if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined = [stmt.name]
        elif isinstance(stmt, ast.Assign | ast.AnnAssign) and stmt.value is not None:
            targets = stmt.targets if isinstance(stmt, ast.Assign) else [stmt.target]
            defined = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        elif isinstance(stmt, ast.Import | ast.ImportFrom):
            module.imports.update(_imported(stmt, name, path.stem == "__init__"))
            continue
        elif isinstance(stmt, ast.If) and ast.unparse(stmt.test) == "TYPE_CHECKING":
            for inner in stmt.body:
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    module.imports.update(_imported(inner, name, path.stem == "__init__"))
            continue
        else:
            defined = []
        if not defined or module.definitions.keys() & set(defined):
            module.loose.append(stmt)
        else:
            module.definitions.update(dict.fromkeys(defined, stmt))
    return module


def _imported(
    stmt: ast.Import | ast.ImportFrom, module: str, is_package: bool = False
) -> dict[str, tuple[str, str | None]]:
    """What an import statement gives: by name, the module and the name in it."""
    if isinstance(stmt, ast.Import):
        names = {alias.name: alias.asname or alias.name.partition(".")[0] for alias in stmt.names}
        return {given: (module, None) for module, given in names.items()}
    base = module.split(".") if is_package else module.split(".")[:-1]
    base = base[: len(base) + 1 - stmt.level] if stmt.level else []
    origin = ".".join([*base, *([stmt.module] if stmt.module else [])])
    return {alias.asname or alias.name: (origin, alias.name) for alias in stmt.names}


def _bounded(module: Module, node: ast.AST) -> Iterator[tuple[ast.Subscript, ast.expr]]:
    """`Annotated[int, …]`, and the type in it; the rest is what the lab checks configs by."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Subscript) and isinstance(inner.value, ast.Name):
            is_bounded = module.imports.get(inner.value.id) == ("typing", "Annotated")
            if is_bounded and isinstance(inner.slice, ast.Tuple):
                yield inner, inner.slice.elts[0]


def _names(module: Module, node: ast.AST) -> Iterator[ast.Name]:
    """The names that a definition mentions, but for those in bounds."""
    left_out: set[ast.AST] = set()
    for bounded, kind in _bounded(module, node):
        left_out |= set(ast.walk(bounded)) - set(ast.walk(kind))
    yield from (n for n in ast.walk(node) if isinstance(n, ast.Name) and n not in left_out)


def _written(module: Module, stmt: ast.stmt) -> str:
    """The source of a definition, the comment above it included, with types without bounds."""
    first = min(n.lineno for n in [stmt, *getattr(stmt, "decorator_list", [])]) - 1
    lines = module.lines[: stmt.end_lineno]
    # From the last to the first, so that places stay what they are; one within another is gone.
    for bounded, kind in sorted(
        _bounded(module, stmt), key=lambda pair: (pair[0].lineno, pair[0].col_offset), reverse=True
    ):
        i, j = bounded.lineno - 1, bounded.end_lineno or bounded.lineno
        after = lines[j - 1][bounded.end_col_offset :]
        lines[i:j] = [lines[i][: bounded.col_offset] + ast.unparse(kind).encode() + after]
    while first and lines[first - 1].startswith(b"#"):
        first -= 1
    return b"".join(lines[first:]).decode().rstrip()
