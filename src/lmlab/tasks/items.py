"""What a task is: questions whose right answer is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One question: which of `choices` follows `context`?

    The right one is `choices[answer]`. Without a context, the text begins with the choice. Where
    there is one choice alone, the question is whether the model would write it.
    """

    context: str
    choices: tuple[str, ...]
    answer: int = 0

    @property
    def chance(self) -> float:
        """How often a guess is right."""
        return 1 / len(self.choices) if len(self.choices) > 1 else 0.0


class Task(ABC):
    """Questions of one kind. A task is a part of a config, as a model is."""

    @abstractmethod
    def items(self, val: Sequence[str]) -> Sequence[Item]:
        """The questions, the same ones each time; `val` are the documents of the val split.

        Raises:
            LabError: if there is something wrong with a file that they come from.
        """
