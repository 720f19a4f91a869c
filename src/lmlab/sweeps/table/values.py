"""How the values of config keys are compared and written, and which figures are off the scale."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from lmlab.config.words.python_words import canonical as canonical

WIDEST = 40  # characters of a value in a terminal or a picture; the CSV files have it whole


def is_missing(value: Any) -> bool:
    """Whether a run has no such key. (None is a value: it is null in a config.)"""
    return isinstance(value, float) and math.isnan(value)


def is_number(value: Any) -> bool:
    """Whether a value has a place on an axis: a finite or infinite float can hold it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # an integer may be larger than any float


def ordered(values: Iterable[Any]) -> list[Any]:
    """The different values: numbers by size, anything else in the order in which it comes."""
    different = {canonical(value): value for value in values if not is_missing(value)}.values()
    return sorted(different) if all(map(is_number, different)) else list(different)


def shown(value: Any, width: int | None = None) -> str:
    """A value as one would type it; long numbers are rounded, long texts cut in the middle."""
    if value is None or isinstance(value, bool | list | dict):
        text = json.dumps(value, ensure_ascii=False, default=repr)
    elif isinstance(value, float):
        text = f"{value:g}"
        if float(text) != value and value == value:
            text = repr(value) if len(repr(value)) <= 8 else f"{value:.4g}"
    else:
        text = str(value)
    text = " ".join(text.split())
    if width is not None and len(text) > width:
        text = f"{text[: width // 2 - 1]}…{text[-(width // 2) :]}"
    return text


def heading(key: str) -> str:
    """The heading of a key's column, on one line: `model` for model._target_."""
    return " ".join(key.removesuffix("._target_").split())


def label(key: str, value: Any, width: int | None = WIDEST) -> str:
    """A value below its heading: of a _target_ only the class; `-` where a run has no such key."""
    if is_missing(value):
        return "-"
    if key.endswith("_target_"):
        value = str(value).rpartition(".")[2]
    return shown(value, width)


def wants_log(values: Sequence[float]) -> bool:
    """Whether numbers are spread more evenly by ratio than by difference, over a factor of 4."""
    points = sorted(set(values))
    if len(points) < 2 or points[0] <= 0 or points[-1] / points[0] < 4:
        return False
    if len(points) == 2:
        return points[1] / points[0] >= 10

    def widest(at: list[float]) -> float:
        return max(b - a for a, b in pairwise(at)) / (at[-1] - at[0])

    return widest([math.log(x) for x in points]) < widest(points)


def ceiling(values: Iterable[float]) -> float:
    """Where to cut an axis so that a diverged run does not press all others flat; or infinity."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.inf
    low = min(finite)
    usual = max(statistics.median_low(finite) - low, 0.2 * abs(low))
    if low > 0:
        usual = min(usual, low)  # where most have diverged, the usual one has too
    below = [value for value in finite if value <= low + 8 * usual]
    return math.inf if len(below) == len(finite) else max(below)


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Each key by what stands behind its last dot, unless two would read alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    n = Counter(last.values())
    return {key: name if n[name] == 1 else key for key, name in last.items()}
