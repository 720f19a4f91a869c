"""Checking a node of a config that has a `_target_` by what its target takes.

Types, bounds and defaults are those of the target's constructor (or of the function), wherever it
comes from: it is imported, and `inspect` asked. Nodes within a node are checked alike.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import logging
import sys
from collections.abc import (
    Callable,
    Collection,
    Hashable,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass, field
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    ConfigDict,
    PlainValidator,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from lmlab.bounds import Divides, Given
from lmlab.config.instantiate import HYDRAS
from lmlab.errors import LabError, first_line

UNKNOWN_ARGUMENT = "unknown_argument"  # the type of that error
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
KEPT = 128  # of what pydantic makes of arguments, which takes it a millisecond or two

Nodes = tuple[tuple[str, Mapping[str, Any]], ...]  # one within the other, each with its key


@dataclass(frozen=True)
class Target:
    """How the nodes of a group are checked: `Annotated[dict[str, Any], Target("model", …)]`.

    `given` are the arguments that the lab hands over itself, so that no config may name them; so
    are the first `positional` ones, whatever their names. `offered` are handed over if the config
    does not name them. Where `given` is None nobody knows what will be handed over, and nothing
    that is missing is asked for.

    `method` is what is called in place of the constructor. `bounds` are for floats whose annotation
    has none. `more` are keys that are no arguments, with their types.

    Where pydantic's context has keys as "left", their nodes are left alone: what they name is not
    imported.
    """

    key: str
    given: frozenset[str] | None = frozenset()
    positional: int = 0
    offered: frozenset[str] = frozenset()
    method: str = ""
    bounds: Mapping[str, Any] = field(default_factory=dict, hash=False)
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        def check(node: Any, info: ValidationInfo) -> Any:
            is_left = self.key in (info.context or {}).get("left", ())
            return node if is_left else self.check(node)

        return handler.generate_schema(Annotated[Any, PlainValidator(check)])

    def check(self, node: Any, around: Nodes = ()) -> dict[str, Any]:
        """A node, with floats for whole numbers where its target wants floats; `around` are those
        that it stands in.

        Raises:
            ValidationError: pydantic's, of the keys and values that are refused.
            LabError: if the target cannot be imported, or pydantic can make nothing of its
                annotations.
        """
        if not isinstance(node, Mapping) or not all(isinstance(key, str) for key in node):
            raise PydanticCustomError("no_node", "give a mapping with a _target_")
        arguments = self._arguments(node.get("_target_"))
        nodes = (*around, (self.key, node))
        try:
            typed_dict = self._typed_dict(arguments, tuple(node), "_args_" in node)
            checked: dict[str, Any] = typed_dict.validate_python(dict(node), context={"in": nodes})
        except (TypeError, RuntimeError) as error:  # a bound that does not go with its type
            about = f"{self.key}: the annotations of {node['_target_']}"
            raise LabError(f"{about}: {first_line(error)}") from error
        for name, parameter in arguments.parameters.items():
            if name in checked:
                _check_divides(name, parameter.annotation, (*around, (self.key, checked)))
        return checked

    def _arguments(self, target: Any) -> Arguments:
        if not isinstance(target, str):
            return ANY_ARGUMENTS
        try:
            call = named(target)
        except LabError as error:
            reason = str(error).removeprefix(f"{target} ")
            raise _problem("not_there", reason, "_target_", target) from error
        return arguments_of(getattr(call, self.method, None) if self.method else call)

    @functools.lru_cache(KEPT)  # noqa: B019 (a target is kept with what is made of it)
    def _typed_dict(
        self, arguments: Arguments, keys: tuple[str, ...], has_args: bool
    ) -> TypeAdapter[dict[str, Any]]:
        """What checks the nodes with these keys."""
        sayable = {
            parameter.name: parameter
            for parameter in [*arguments.parameters.values()][self.positional :]
            if parameter.kind in NAMED and parameter.name not in (self.given or ())
        }
        fields: dict[str, Any] = {"_target_": str}
        fields |= {name: NotRequired[kind] for name, kind in HYDRAS.items()} | dict(self.more)
        is_asked = self.given is not None and not has_args
        for name, parameter in sayable.items():
            kind = self._kind(name, parameter.annotation)
            is_required = parameter.default is inspect.Parameter.empty
            is_required &= is_asked and name not in self.offered
            fields[name] = kind if is_required else NotRequired[kind]
        for name in [name for name in keys if name not in fields]:
            takes = arguments.takes_others
            fields[name] = self._kind(name, Any) if takes else _refused([*sayable])
        typed_dict: Any = TypedDict  # mypy takes no other fields than a literal
        schema = typed_dict("schema", fields)
        schema.__pydantic_config__ = ConfigDict(strict=True, extra="forbid")
        return TypeAdapter(schema)

    def _kind(self, name: str, annotation: Any) -> Any:
        """The type of an argument, which may be or hold a node with a target."""
        kind = annotation
        if name in self.bounds:
            kind = _with_bound(annotation, self.bounds[name])
        return Annotated[kind, AfterValidator(self._inner(name, annotation))]

    def _inner(self, name: str, annotation: Any) -> Callable[[Any, ValidationInfo], Any]:
        """The check of the nodes within an argument."""
        given = next((m.arguments for m in _metadata(annotation) if isinstance(m, Given)), None)
        whole = Target(f"{self.key}.{name}", bounds=self.bounds)
        partial = Target(f"{self.key}.{name}", given, bounds=self.bounds)

        def check(value: Any, info: ValidationInfo) -> Any:
            if not isinstance(value, Mapping | list):
                return value
            nodes: Nodes = (info.context or {})["in"]
            if nodes[-1][1].get("_recursive_") is False:  # Hydra makes nothing of what is below
                return value
            if isinstance(value, Mapping) and "_target_" in value:
                target = partial if value.get("_partial_") is True else whole
                return target.check(value, nodes)
            adapter = of_list() if isinstance(value, list) else of_mapping()
            return adapter.validate_python(value, context=info.context)

        inside: Any = Annotated[Any, AfterValidator(check)]
        of_list = functools.cache(lambda: TypeAdapter(list[inside]))
        of_mapping = functools.cache(lambda: TypeAdapter(dict[Any, inside]))
        return check


def _check_divides(name: str, annotation: Any, nodes: Nodes) -> None:
    """`nodes` are the one with this argument, last, and those around it."""
    for whole in (m.whole for m in _metadata(annotation) if isinstance(m, Divides)):
        having = ((key, node[whole]) for key, node in reversed(nodes) if whole in node)
        key, size = next(having, ("", None))  # the nearest that has it counts
        n = nodes[-1][1][name]
        if isinstance(size, int) and isinstance(n, int) and (n == 0 or size % n):
            raise _problem("undivided", f"{key}.{whole}={size} is not divisible by it", name, n)


def class_name(kind: type) -> str:
    """Where a class is found: `package.module.Name`."""
    return f"{kind.__module__}.{kind.__qualname__}"


def named(target: str) -> Any:
    """The class or function that a `_target_` names.

    Raises:
        LabError: if it cannot be imported.
    """
    from hydra.utils import get_object  # here: what only reads runs does without Hydra

    hydras = logging.getLogger("hydra.utils")  # it prints what it then raises
    if hydras.level != logging.CRITICAL:  # setting it costs all loggers what they have looked up
        hydras.setLevel(logging.CRITICAL)
    try:
        return get_object(target)
    except (Exception, SystemExit) as error:  # whatever importing somebody's module raises
        cause = error.__cause__ or error
        reason = first_line(cause)
        module, _, name = target.rpartition(".")
        if close := difflib.get_close_matches(name, dir(sys.modules.get(module)), n=1):
            reason += f"; did you mean {module}.{close[0]}?"
        raise LabError(f"{target} cannot be imported: {reason}") from error


@dataclass(frozen=True, eq=False)
class Arguments:
    """What a class or function takes, with the types that a config can hold."""

    parameters: Mapping[str, inspect.Parameter]
    takes_others: bool


ANY_ARGUMENTS = Arguments({}, takes_others=True)


def arguments_of(call: Any) -> Arguments:
    """All arguments, where it does not say which it takes, as what is built in."""
    if not isinstance(call, Hashable):
        return ANY_ARGUMENTS
    return _arguments(call, getattr(_function(call), "__code__", None))


@functools.lru_cache(KEPT)
def _arguments(call: Any, code: Any) -> Arguments:
    """`code` is another one where %autoreload has changed a class in place."""
    takes = signature(call)
    if takes is None:
        return ANY_ARGUMENTS
    takes_others = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.parameters.values())
    return Arguments(takes.parameters, takes_others)


def _function(call: Any) -> Any:
    """What says the types: torch wraps the constructors of optimizers, and of a class it is the
    first that has annotations."""
    return inspect.unwrap(call.__init__ if isinstance(call, type) else call)  # type: ignore[misc]


def signature(call: Any) -> inspect.Signature | None:
    """What a class or function takes, with the types that a config can hold; None if it does not
    say, as what is built in."""
    function = _function(call)
    is_readable = inspect.isfunction(function) or inspect.ismethod(function)
    if not isinstance(call, type) and not is_readable:
        return None
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    names = getattr(function, "__globals__", {})
    return inspect.Signature([p.replace(annotation=_type_of(p, names)) for p in parameters])


def _type_of(parameter: inspect.Parameter, names: dict[str, Any]) -> Any:
    if parameter.annotation is parameter.empty:
        return Any
    written = SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        kind = _of_config(get_type_hints(written, names, include_extras=True)["it"])
    except Exception:  # whatever stands in somebody's annotation
        return Any
    # None may be said where it is the default, whatever the annotation forgets.
    return Union[kind, None] if parameter.default is None else kind  # noqa: UP007 (it may be Any)


def _of_config(annotation: Any) -> Any:
    """The type of an annotation, as far as a config can hold it; else Any."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (int, float, bool, str, list, dict, NoneType) or origin is Literal:
        return annotation
    if origin is Annotated:
        return Annotated[(_of_config(arguments[0]), *annotation.__metadata__)]
    inner = tuple(a if a is ... else _of_config(a) for a in arguments)
    if origin in (Union, UnionType):
        return Union[inner]  # noqa: UP007
    if origin is tuple:  # which is a list in a config
        return Annotated[tuple[inner], Strict(False)]  # type: ignore[valid-type]
    if origin in (list, Sequence, Iterable, Collection):
        return list[inner[0]]  # type: ignore[valid-type]
    if origin in (dict, Mapping, MutableMapping):
        return dict[inner]  # type: ignore[misc, valid-type]
    return Any


def _problem(kind: str, message: str, argument: str, value: Any) -> ValidationError:
    """An error of pydantic's, of an argument of a node."""
    error = PydanticCustomError(kind, "{message}", {"message": message})
    return ValidationError.from_exception_data(
        "node", [{"type": error, "loc": (argument,), "input": value}]
    )


def _refused(known: list[str]) -> Any:
    def refuse(value: Any) -> Any:
        raise PydanticCustomError(UNKNOWN_ARGUMENT, "there is no such argument", {"known": known})

    return Annotated[Any, PlainValidator(refuse)]


def _metadata(annotation: Any) -> list[Any]:
    """Of an annotation and what it is made of: what stands in Annotated[…] after the type."""
    inner = [m for a in get_args(annotation) for m in _metadata(a)]
    return [*getattr(annotation, "__metadata__", ()), *inner]


def _with_bound(annotation: Any, bound: Any) -> Any:
    """An annotation with a bound for its floats, unless they have one."""
    if annotation is float:
        return bound
    if annotation is Any:  # not annotated, or by something else than numbers
        return bound | list[bound] | None
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Union:
        if float in arguments:  # the rest of `float | Tensor` is nothing that a config can hold
            arguments = tuple(a for a in arguments if a is not Any)
        return Union[tuple(_with_bound(a, bound) if a is float else a for a in arguments)]  # noqa: UP007
    if origin is Annotated and get_origin(arguments[0]) is tuple:
        members = tuple(m if m is ... else _with_bound(m, bound) for m in get_args(arguments[0]))
        return Annotated[(tuple.__class_getitem__(members), *arguments[1:])]
    return annotation
