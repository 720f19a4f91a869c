"""Checking a composed config before anything is built or written."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lmlab.config.fingerprint import under
from lmlab.config.origins import brought
from lmlab.config.slips import called_here, nearest, several_values
from lmlab.config.targets import UNKNOWN_ARGUMENT
from lmlab.errors import LabError, first_line

# What is checked first is what needs no import; then what needs torch; last, what needs Lightning,
# which takes twice as long.
LAST = ("callbacks", "logger")
PARTS = (
    "corpus",
    "tokenizer",
    "model",
    "loss",
    "optimizer",
    "schedule",
    "parametrisation",
    "tasks",
    *LAST,
)
UNKNOWN = ("extra_forbidden", UNKNOWN_ARGUMENT)  # the types of errors that refuse a key


T = TypeVar("T", bound=BaseModel)


def check(cfg: DictConfig, schema: type[T], **given: Any) -> T:
    """The config, every key and value of it accepted by `schema`.

    `given` replaces top-level values; they are taken as they are, `${…}` in them too.

    Raises:
        LabError: naming the first key that is missing, unknown, or has a value that is refused.
    """
    return check_plain(plain_of(cfg, **given), schema)


def plain_of(cfg: DictConfig, **given: Any) -> Any:
    """The config in plain containers, without interpolations; `given` as for `check`.

    Raises:
        LabError: naming a key that is missing, or an interpolation that leads nowhere.
    """
    try:
        try:
            plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException:  # looking for what is missing takes twice as long
            missing = sorted(OmegaConf.missing_keys(cfg) - given.keys())
            if missing:
                raise LabError(f"{missing[0]} is missing: give {missing[0]}=…") from None
            plain = OmegaConf.to_container(cfg, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        key = getattr(error, "full_key", None) or "config"
        raise LabError(f"{key}: {first_line(error)}") from error
    return {**plain, **given} if isinstance(plain, dict) else plain


def check_plain(plain: Any, schema: type[T], parts: Collection[str] = PARTS) -> T:
    """A config that is in plain containers already, such as one read back from a run.

    Of the groups in `parts` the classes are imported, which is not to be done with a config of
    somebody else's; the nodes of the others are left as they are.
    """
    if not isinstance(plain, dict):
        raise LabError("config: not a mapping of keys to values")
    others = [group for group in PARTS if group not in parts]
    try:
        for left in dict.fromkeys(frozenset((*others, *later)) for later in (PARTS, LAST, ())):
            checked = schema.model_validate(plain, context={"left": left})
    except ValidationError as error:
        raise LabError(_explain(error, plain)) from error
    return checked


def keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of nested containers, inner ones after those that hold them."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from keys(value, f"{prefix}{key}.")


def _place(problem: ErrorDetails, plain: Any) -> tuple[str, Any]:
    """The key that is refused or missing, and the value that it has.

    pydantic also names which member of a union it tried; only keys that are there are the user's.
    """
    path, node = [], plain
    for step in problem["loc"]:
        inside = isinstance(node, dict) and step in node
        inside = inside or (isinstance(node, list) and isinstance(step, int) and step < len(node))
        if inside:
            node = node[step]
            path.append(str(step))
    if problem["type"] == "missing":
        path.append(str(problem["loc"][-1]))
    return ".".join(path), node


def _explain(error: ValidationError, plain: dict[Any, Any]) -> str:
    problems = error.errors()
    first = next((p for p in problems if p["type"] in UNKNOWN), problems[0])
    key, value = _place(first, plain)
    if first["type"] in UNKNOWN:
        unknown = [_place(p, plain) for p in problems if p["type"] in UNKNOWN]
        if other_version := brought(unknown, len(problems) - len(unknown)):
            return other_version
    more = len({k for k, _ in (_place(p, plain) for p in problems) if not under(key, (k,))})
    tail = f" (and {more} more problem{'s' * (more > 1)})" if more else ""
    if first["type"] in UNKNOWN:
        return f"unknown key {key}={_short(value)}{_instead(key, first, plain)}{tail}"
    if first["type"] == "missing":
        return f"{key} is missing{tail}"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "valid list")
    if not key:  # a rule between keys, which names them itself
        return message + tail
    several = several_values(value)
    as_sweep = f"; several values are a sweep: -m {key}={several}" if several else ""
    return f"{key}={_short(value)}: {message[0].lower()}{message[1:]}{as_sweep}{tail}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _instead(key: str, problem: ErrorDetails, plain: dict[Any, Any]) -> str:
    """What may be meant by an unknown key: an argument of the same target, or some other key."""
    node, _, name = key.rpartition(".")
    arguments = problem.get("ctx", {}).get("known", ())
    if close := difflib.get_close_matches(name, arguments, n=1, cutoff=0.6):
        return f"; did you mean {node}.{close[0]}?"
    others = [k for k in keys(plain) if not under(k, (key,)) and not under(key, (k,))]
    if (ours := called_here(key)) in others:
        return f"; did you mean {ours}?"
    return nearest(key, [k for k in others if not k.endswith("_")])  # _target_ is Hydra's own
