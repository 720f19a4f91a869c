"""What is asked of a sweep: its final loss, the loss at a point of training, the way to a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lmlab.errors import LabError
from lmlab.sweeps.compare.differences import Differences, compare, setting_named
from lmlab.sweeps.compare.equal import At, compare_at, compare_to, parse_at
from lmlab.sweeps.table.settings import Table


@dataclass(frozen=True)
class Questions:
    """Comparisons of the settings of a table with one baseline."""

    table: Table
    baseline: int | None = None  # a setting; None: the best, for each question its own
    least: float | None = None  # a difference of losses that matters
    at: Sequence[At] = ()
    to: Sequence[float] = ()

    @classmethod
    def parse(
        cls,
        table: Table,
        baseline: str | None,
        least: float | None,
        at: Sequence[str],
        to: Sequence[float],
    ) -> Questions:
        """As they are typed.

        Raises:
            LabError: if a baseline is not there, or a number is of no use.
        """
        if least is not None and not 0 < least < math.inf:
            raise LabError(f"--least {least:g}: a difference of losses above zero, such as 0.01")
        for loss in to:
            if not math.isfinite(loss):
                raise LabError(f"--to {loss:g}: a loss, such as 1.88")
        setting = None if baseline is None else setting_named(table, baseline)
        return cls(table, setting, least, [parse_at(text) for text in at], to)

    def answers(self, settings: Sequence[int] | None = None) -> list[Differences]:
        """Each comparison that says more than the leaderboard does, of some settings or all."""
        final = compare(self.table, settings, self.baseline, self.least)
        found = [final] if final.tested.any() else []
        for when in self.at:
            found.append(compare_at(self.table, when, settings, self.baseline, self.least))
        for loss in self.to:
            units = ["steps", "s"]
            if self.table.runs["flops"].gt(0).any():
                units.append("flops")
            for unit in units:
                found.append(compare_to(self.table, loss, unit, settings, self.baseline))
        return found
