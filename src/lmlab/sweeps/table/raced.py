"""What a race of seeds came to, as it is kept in the sweep's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmlab.files import read_small, write_atomically

RACE = "race.json"
MOST = 1 << 24  # bytes


@dataclass(frozen=True)
class Raced:
    """The settings in the order in which they came in, and the first one's fresh losses."""

    # setting, seeds, loss; of one that stopped also why, against, difference, low, high, p
    rows: list[dict[str, Any]]
    n_seeds: int  # that might have been spent on each
    n_runs: int  # that it was decided by
    fresh: list[int]  # seeds
    losses: list[float]  # val/loss_full with these, nats per token
    has_winner: bool  # all others are worse
    least: float | None

    def write(self, folder: Path) -> None:
        """
        Raises:
            LabError: if it cannot be written.
        """
        write_atomically(folder / RACE, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Raced | None:
        """The race of a sweep; None where there was none, or the file is none of ours."""
        try:
            raced = cls(**json.loads(read_small(folder / RACE, MOST, within=folder)))
            [(row["setting"], int(row["seeds"]), float(row["loss"])) for row in raced.rows]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return raced
