"""Python's values as a config has them, when two of them are one, and as the words of Hydra's
grammar."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from lmlab.errors import LabError, first_line

LITERALS = ("run", "from")  # keys whose value is taken as it is, outside of Hydra's grammar
DEEPEST = 16  # levels of containers within each other
LONGEST = 100_000  # values in a list: Hydra reads some thousands a second
NOT_TEXTS = ("null", "true", "false", "nan", "inf")  # to Hydra, without quotes
NOT_LISTS = (bytes, bytearray, memoryview)  # though Python can go through them
INSTEAD = "give a number, a text, a path, a list or a dict"
KEY = re.compile(r"(\+\+?|~)?[\w.:/@$-]+", re.ASCII)


def words_of(
    values: Mapping[Any, Any],
    literals: Sequence[str] = LITERALS,
    above: str = "",
    room: int = DEEPEST,
) -> list[str]:
    """An override for each value; keys may be nested, by dicts.

    Of the keys in `literals` the value is taken as it is.

    Raises:
        LabError: naming the key, for what is no value of a config.
    """
    words = []
    for name, given in values.items():
        key = f"{above}{_checked_key(name, above)}"
        value = _resolved(given, key)
        if isinstance(value, Mapping):
            _check_room(key, room)
            words += words_of(value, (), f"{key}.", room - 1)
        elif key in LITERALS and value is None:
            continue  # as if it were not given
        elif key in literals:
            words.append(f"{key}={plain(value, key)}")
        else:
            words.append(f"{key}={in_grammar(plain(value, key))}")
    return words


def axis_of(key: str, values: Any) -> str:
    """The override that gives a key several values, one after the other.

    Raises:
        LabError: naming the key, if there are none, or one is no value of a config.
    """
    if isinstance(values, range) and _length(values) > 100:  # counted before they are made
        return f"{_checked_key(key)}=range({values.start},{values.stop},{values.step})"
    several = plain(values, _checked_key(key))
    if not several:
        raise LabError(f"{key}={several}: a sweep needs at least one value of each key")
    return f"{key}={','.join(map(in_grammar, several))}"


def is_several(value: Any) -> bool:
    """Whether a value is one of Python's rows of values: a list, a range, an array, a Series."""
    if isinstance(value, (str, type, *NOT_LISTS)):
        return False
    return isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0


def plain(value: Any, key: str, room: int = DEEPEST) -> Any:
    """A value as a config has it: None, bool, int, float, str, or a list or dict of these.

    Numbers and arrays of NumPy, torch and pandas become Python's, paths become texts.

    Raises:
        LabError: naming the key, for anything else, and for a text that no file can hold.
    """
    value = _resolved(value, key)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (*NOT_LISTS, type)) or _is_time(value):
        raise LabError(f"{key}: {type(value).__name__} is no type of a config's values; {INSTEAD}")
    if isinstance(value, Integral):
        return _checked_number(int(value), key)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return checked_text(str.__str__(value), key)  # of an Enum, too, its value
    _check_room(key, room)
    if isinstance(value, Mapping):
        return {
            _checked_key(name, f"{key}."): plain(inner, f"{key}.{name}", room - 1)
            for name, inner in value.items()
        }
    if (n := _length(value)) > LONGEST:
        raise LabError(f"{key}: {n:,} values; a list in a config has at most {LONGEST:,}")
    if isinstance(value, Sequence):
        return [plain(inner, key, room - 1) for inner in value]
    if hasattr(value, "tolist"):
        return plain(_listed(value, key), key, room - 1)
    raise LabError(f"{key}: {type(value).__name__} is no type of a config's values; {INSTEAD}")


def canonical(value: Any) -> str:
    """A text that values share if they are equal in a config: 1 and 1.0, but not 1 and true."""
    return json.dumps(_with_floats(value), sort_keys=True, default=repr)


def _with_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _with_floats(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_floats(inner) for inner in value]
    is_small = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    return float(value) if is_small else value


def checked_text(text: str, key: str, may_have_nul: bool = False) -> str:
    """A text that files and their names can hold.

    Raises:
        LabError: naming the key, for half of a surrogate pair, or a NUL.
    """
    if "\0" in text and not may_have_nul:
        raise LabError(f"{key}={text!r}: no text of a config holds NUL (\\x00)")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise LabError(f"{key}={text!r}: half of a surrogate pair is no character")
    return text


def _checked_key(name: Any, above: str = "") -> str:
    if not isinstance(name, str) or not KEY.fullmatch(name):
        raise LabError(f"{above}{name!r}: no key; one is written as in model.n_layer")
    return name


def _checked_number(number: int, key: str) -> int:
    try:
        str(number)
    except ValueError as error:  # Python's own limit
        raise LabError(f"{key}: {str(error).partition(';')[0].lower()}") from error
    return number


def _check_room(key: str, room: int) -> None:
    if room == 0:
        raise LabError(f"{key}: lists and dicts more than {DEEPEST} deep, or within themselves")


def _is_time(value: Any) -> bool:
    """Whether it is one of NumPy's times, or an array of them: as numbers they have no unit."""
    return getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M")


def _length(value: Any) -> int:
    """How many values a sequence or an array has; 0 for anything else."""
    if not isinstance(value, Sequence):
        return math.prod(getattr(value, "shape", (0,)))
    try:
        return len(value)
    except OverflowError:  # a range of Python's
        return sys.maxsize


def _resolved(value: Any, key: str) -> Any:
    """What a part of an OmegaConf holds, its interpolations resolved; any other value as it is."""
    from omegaconf import Container, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(value, Container):
        return value
    try:
        return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise LabError(f"{key}: {first_line(error)}") from error


def _listed(value: Any, key: str) -> Any:
    try:
        return value.tolist()
    except (RuntimeError, TypeError, ValueError) as error:  # of torch's, those without data
        raise LabError(f"{key}: {' '.join(str(error).split())[:100]}") from error


def in_grammar(value: Any) -> str:
    """A plain value in Hydra's grammar, which reads it as it is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{in_grammar(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(in_grammar, value)) + "]"
    from hydra.core.override_parser.types import Quote, QuotedString

    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_/]*", value) and value.lower() not in NOT_TEXTS:
        return str(value)  # the names of options have no quotes
    # A text is a text: what would be an interpolation is escaped as OmegaConf wants it.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return QuotedString(text, Quote.single).with_quotes()
