"""What a race of seeds came to, as it is kept in the sweep's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lmlab.bounds import Count, CountOrZero, Seed
from lmlab.files import read_small, write_atomically

RACE = "race.json"
MOST = 1 << 24  # bytes


class Row(TypedDict):
    """A setting; what stands behind `loss`, if it stopped."""

    setting: str
    seeds: CountOrZero
    loss: float  # val/loss_full, nats per token, mean over the seeds that it raced with
    why: NotRequired[str]
    n: NotRequired[CountOrZero]  # seeds until then
    against: NotRequired[str]  # the setting that was the best then
    difference: NotRequired[float]  # from the best, with its interval and p
    low: NotRequired[float]
    high: NotRequired[float]
    p: NotRequired[float]


@dataclass(frozen=True)
class Raced:
    """The settings in the order in which they came in, and the first one's fresh losses."""

    rows: list[Row]
    n_seeds: Count  # that might have been spent on each
    n_runs: CountOrZero  # that it was decided by
    fresh: list[Seed]
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
            content = read_small(folder / RACE, MOST, within=folder)
            raced = TypeAdapter(cls).validate_json(content, strict=True)
        except (OSError, ValueError, ValidationError):
            return None
        return raced if raced.rows else None
