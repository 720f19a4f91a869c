"""Bounds of arguments, written where a constructor takes them.

    def __init__(self, vocab_size: int, block_size: int, n_layer: Count, dropout: BelowOne = 0.0):

To Python they are plain numbers. A config is checked by them before anything is built.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _whole(value: Any) -> Any:
    """`1e3` is how people write a thousand, and YAML reads a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=1, lt=2**63)]
CountOrZero = Annotated[Whole, Field(ge=0, lt=2**63)]
LARGEST = 3e38  # that torch can hold in float32
Positive = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Divides:
    """A number by which another argument has to be divisible: of the same class, or of one that
    this class is a part of."""

    whole: str


@dataclass(frozen=True, init=False)
class Given:
    """A part that is handed over as a partial function and called with these arguments, so that a
    config need not name them."""

    arguments: frozenset[str]

    def __init__(self, *arguments: str):
        object.__setattr__(self, "arguments", frozenset(arguments))
