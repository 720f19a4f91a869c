"""The signature of a class or function, read from its source: nothing of it is imported.

Importing a model takes torch, and that takes seconds; a config error should take none. What cannot
be read (a built-in, a name bound twice, a decorated function) has no signature. An annotation that
cannot be resolved, or is no type that a config can hold, is Any.
"""

from __future__ import annotations

import ast
import builtins
import copy
import importlib
import inspect
from collections import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Literal,
    Optional,
    Union,
    get_args,
    get_origin,
)

from pydantic import Strict

from lmlab.config.sources import source_file

# Modules that are imported to look up the names of an annotation.
KNOWN = {"typing", "typing_extensions", "collections", "collections.abc"}
KNOWN |= {"pydantic", "annotated_types", "lmlab.bounds"}
# Of what Annotated[…] holds beside a type, bounds are kept: they are made in these modules.
BOUNDS = ("annotated_types", "pydantic.fields", "lmlab.bounds")
BUILTINS = ("int", "float", "bool", "str", "list", "dict", "tuple")
LARGE = ("torch", "lightning")  # a config can hold nothing of their types: they are not looked up
# Decorators that leave a signature as it is.
HARMLESS = {"abstractmethod", "classmethod", "final", "no_grad", "override", "staticmethod"}
DEEPEST = 30  # imports and base classes that are followed; a circle has no end


class UnreadableError(Exception):
    """The source does not say."""


@dataclass
class Module:
    """The names that a module or a class binds, each with what it is bound to."""

    name: str
    package: str
    names: dict[str, Any] = field(default_factory=dict)  # a statement, an expression, an Imported
    stars: list[str] = field(default_factory=list)  # modules all of whose names are imported

    def bind(self, name: str, value: Any) -> None:
        self.names[name] = None if name in self.names else value  # bound twice: nobody knows

    def read(self, statements: Sequence[ast.stmt]) -> Module:
        """Take in what statements bind, those under `if` and `try` too."""
        for statement in statements:
            match statement:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    if "overload" not in _decorators(statement):
                        self.bind(statement.name, statement)
                case ast.Assign(targets=[ast.Name(name)], value=value):
                    self.bind(name, value)
                case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value):
                    self.bind(name, value)
                case ast.Import(names=aliases):
                    for alias in aliases:
                        top = alias.name.partition(".")[0]
                        if alias.asname:
                            self.bind(alias.asname, Imported(alias.name))
                        else:
                            self.names[top] = Imported(top)
                case ast.ImportFrom(names=aliases):
                    source = self._absolute(statement)
                    for alias in aliases:
                        if alias.name == "*":
                            self.stars.append(source)
                        else:
                            self.bind(alias.asname or alias.name, Imported(source, alias.name))
                case ast.If(body=body, orelse=orelse):
                    self.read([*body, *orelse])
                case ast.Try(body=body, handlers=handlers, orelse=orelse):
                    self.read([*body, *(s for h in handlers for s in h.body), *orelse])
        return self

    def _absolute(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        parts = self.package.split(".")
        base = parts[: len(parts) + 1 - statement.level]
        return ".".join([*base, *([statement.module] if statement.module else [])])


@dataclass(frozen=True)
class Imported:
    """A name of another module, or that module."""

    module: str
    name: str = ""


@dataclass(frozen=True)
class Found:
    """A class or a function, and the module that it stands in."""

    module: Module
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def signature(target: str) -> inspect.Signature | None:
    """What a call of `target` takes, as `inspect.signature` has it; None if that cannot be read.

    `target` is a class, a function, or a method of a class (package.module.Class.method). A default
    that is no literal is `...`.
    """
    try:
        found = _find(target)
        if not isinstance(found.node, ast.ClassDef):
            return _signature(found, is_method=False)
        constructor = _method(found, "__init__")
        return inspect.Signature() if constructor is None else _signature(constructor)
    except (UnreadableError, RecursionError):
        return None


def package_of(target: str) -> str:
    """The package that a class or function is of: the one that it is named in, or the one that this
    only imports it from. As far as the source says."""
    package, *names = target.split(".")
    module = _module(package)
    for _ in range(DEEPEST):
        if module is None or not names:
            break
        owner, bound = next(_bindings(module, names[0]), (module, None))
        if isinstance(bound, Imported):
            package, names[:1] = bound.module.partition(".")[0], [bound.name] if bound.name else []
            if package != module.name.partition(".")[0]:
                break
            module = _module(bound.module)
        elif isinstance(bound, ast.expr):
            module, names[:1] = owner, _dotted_or_none(bound)
        elif bound is not None:
            break
        else:
            module = _module(f"{module.name}.{names.pop(0)}")
    return package


def _module(name: str) -> Module | None:
    path = source_file(name)
    return None if path is None else _parsed(path, name, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed(path: Path, name: str, mtime_ns: int) -> Module | None:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    return Module(name, package).read(tree.body)


def _find(target: str) -> Found:
    parts = target.split(".")
    for n in range(len(parts) - 1, 0, -1):
        if (module := _module(".".join(parts[:n]))) is not None:
            return _look_up(module, parts[n:])
    raise UnreadableError


def _look_up(module: Module, names: Sequence[str], depth: int = 0) -> Found:
    """What a dotted name stands for in a module, followed through imports and aliases."""
    if depth > DEEPEST or not names:
        raise UnreadableError
    for owner, bound in _bindings(module, names[0]):
        if isinstance(bound, Imported):
            path = [bound.name, *names[1:]] if bound.name else names[1:]
            if (other := _module(bound.module)) is None:
                raise UnreadableError
            return _look_up(other, path, depth + 1)
        if isinstance(bound, ast.expr):
            return _look_up(owner, [*_dotted(bound), *names[1:]], depth + 1)
        if bound is None:
            raise UnreadableError
        found = Found(owner, bound)
        if len(names) == 1:
            return found
        method = _method(found, names[1], depth + 1)
        if method is None or len(names) > 2:
            raise UnreadableError
        return method
    if (inner := _module(f"{module.name}.{names[0]}")) is not None:
        return _look_up(inner, names[1:], depth + 1)
    raise UnreadableError


def _bindings(module: Module, name: str, depth: int = 0) -> Iterator[tuple[Module, Any]]:
    """What a name is bound to in a module, or in those whose names it imports all."""
    if name in module.names:
        yield module, module.names[name]
    elif depth < DEEPEST:
        for star in module.stars:
            if (other := _module(star)) is not None:
                yield from _bindings(other, name, depth + 1)


def _method(cls: Found, name: str, depth: int = 0) -> Found | None:
    """A method of a class or of those that it inherits from; None if it is left to `object`."""
    assert isinstance(cls.node, ast.ClassDef)
    if depth > DEEPEST:
        raise UnreadableError
    own = Module(cls.module.name, cls.module.package).read(cls.node.body).names
    if name in own:
        if isinstance(own[name], ast.FunctionDef):
            return Found(cls.module, own[name])
        raise UnreadableError
    metaclasses = {_last_name(keyword.value) for keyword in cls.node.keywords}
    if cls.node.decorator_list or "__new__" in own or metaclasses - {"ABCMeta"}:
        raise UnreadableError  # such as a dataclass, whose constructor is made for it
    inherited = []
    for base in cls.node.bases:
        if isinstance(base, ast.Subscript):
            base = base.value
        if _last_name(base) in ("object", "Generic", "Protocol"):
            continue
        parent = _look_up(cls.module, _dotted(base), depth + 1)
        if not isinstance(parent.node, ast.ClassDef):
            raise UnreadableError
        if (found := _method(parent, name, depth + 1)) is not None:
            inherited.append(found)
    if len(inherited) > 1:
        raise UnreadableError  # which comes first is not read here
    return inherited[0] if inherited else None


def _signature(found: Found, is_method: bool = True) -> inspect.Signature:
    function = found.node
    assert not isinstance(function, ast.ClassDef)
    decorators = _decorators(function)
    if not decorators <= HARMLESS:
        raise UnreadableError  # it may take other arguments
    arguments = copy.copy(function.args)
    arguments.defaults = [_literal(default) for default in arguments.defaults]
    arguments.kw_defaults = [default and _literal(default) for default in arguments.kw_defaults]
    same = ast.Expression(ast.Lambda(arguments, ast.Constant(None)))
    code = compile(ast.fix_missing_locations(same), found.module.name, "eval")
    parameters = [*inspect.signature(eval(code, {})).parameters.values()]
    if (is_method or "classmethod" in decorators) and "staticmethod" not in decorators:
        del parameters[:1]  # self, or cls
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    annotations = {argument.arg: argument.annotation for argument in named}
    return inspect.Signature(
        [p.replace(annotation=_type_of(p, annotations, found.module)) for p in parameters]
    )


def _literal(default: ast.expr) -> ast.expr:
    try:
        ast.literal_eval(default)
    except (ValueError, TypeError):
        return ast.Constant(...)
    return default


def _type_of(
    parameter: inspect.Parameter, annotations: dict[str, ast.expr | None], module: Module
) -> Any:
    annotation = annotations.get(parameter.name)
    found = Any if annotation is None else _type(module, annotation)
    # None may be said where it is the default, whatever the annotation forgets.
    return Optional[found] if parameter.default is None else found  # noqa: UP045 (found may be Any)


class _Unknowns(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("nothing is called that is not known")


class Unknown(metaclass=_Unknowns):
    """Whatever a name stands for that is not looked up, such as nn or Tensor."""


class _Names(dict[str, Any]):
    """The names of a module as far as annotations need them; all others are Unknown."""

    def __init__(self, module: Module, depth: int):
        super().__init__()
        self.module, self.depth = module, depth

    def __missing__(self, name: str) -> Any:
        for owner, bound in _bindings(self.module, name):
            if isinstance(bound, Imported):
                return self._imported(bound)
            if isinstance(bound, ast.expr):
                return _evaluated(owner, bound, self.depth + 1)
            return Unknown
        return getattr(builtins, name) if name in BUILTINS else Unknown

    def _imported(self, bound: Imported) -> Any:
        if bound.module in KNOWN:
            module = importlib.import_module(bound.module)
            return getattr(module, bound.name, Unknown) if bound.name else module
        top = bound.module.partition(".")[0]
        own = top in (self.module.name.partition(".")[0], "lmlab") and top not in LARGE
        other = _module(bound.module) if own and bound.name and self.depth < DEEPEST else None
        return Unknown if other is None else _Names(other, self.depth + 1)[bound.name]


def _evaluated(module: Module, expression: ast.expr, depth: int = 0) -> Any:
    """The value of an annotation, as Python would evaluate it, except for what is Unknown."""
    if depth > DEEPEST:
        return Unknown
    code = compile(ast.Expression(expression), module.name, "eval")
    try:
        return eval(code, {"__builtins__": {}}, _Names(module, depth))
    except Exception:  # whatever a name that is not known makes of the rest
        return Unknown


def _type(module: Module, expression: ast.expr) -> Any:
    """The type of an annotation, as far as a config can hold it; else Any."""

    def of_config(found: Any) -> Any:
        if isinstance(found, str | ForwardRef):
            text = found if isinstance(found, str) else found.__forward_arg__
            try:
                return _type(module, ast.parse(text, mode="eval").body)
            except SyntaxError:
                return Any
        origin, arguments = get_origin(found), get_args(found)
        if found in (int, float, bool, str, list, dict, None, type(None)) or origin is Literal:
            return found
        if origin is Annotated:
            bounds = [
                m
                for m in found.__metadata__
                if type(m).__module__ in BOUNDS and not hasattr(m, "func")  # Predicate has one
            ]
            inner = of_config(arguments[0])
            return Annotated[(inner, *bounds)] if bounds else inner
        if origin in (Union, UnionType):
            return Union[tuple(of_config(a) for a in arguments)]  # noqa: UP007
        if origin is tuple:  # which is a list in a config
            members = tuple(a if a is ... else of_config(a) for a in arguments)
            return Annotated[tuple[members], Strict(False)]  # type: ignore[valid-type]
        if origin in (list, abc.Sequence, abc.Iterable, abc.Collection):
            return list[of_config(arguments[0])]  # type: ignore[misc]
        if origin in (dict, abc.Mapping, abc.MutableMapping):
            return dict[of_config(arguments[0]), of_config(arguments[1])]  # type: ignore[misc]
        return Any

    return of_config(_evaluated(module, expression))


def _decorators(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {_last_name(decorator) for decorator in node.decorator_list}


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _dotted_or_none(node: ast.expr) -> list[str]:
    try:
        return _dotted(node)
    except UnreadableError:
        return []


def _dotted(node: ast.expr) -> list[str]:
    """a.b.c as its names."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [*_dotted(node.value), node.attr]
    raise UnreadableError
