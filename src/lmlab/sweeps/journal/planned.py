"""What a launch is going to do: kept beside its journal, for whoever looks on from elsewhere.

Only texts and numbers are read from it, to be shown and to be added up: nothing that it says is
executed, opened or ended.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmlab.bounds import Count, CountOrZero, NotNegative
from lmlab.files import read_small, write_atomically

# Keys that do not change how many operations a job takes.
SAME_WORK = ("seed", "optimizer", "schedule", "parametrisation", "streams", "logger", "sweep.")
Overrides = tuple[str, ...]  # of a job

MOST = 1 << 24  # bytes: the overrides of a hundred thousand jobs


class Work(BaseModel):
    """What a job takes, as far as its config tells. None: nobody knows."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    steps: CountOrZero | None = None
    flops: NotNegative | None = None  # of all its steps


def size(overrides: Sequence[str]) -> Overrides:
    """The overrides that make a job large or small."""
    return tuple(word for word in overrides if not word.lstrip("+~").startswith(SAME_WORK))


class LaunchPlan(BaseModel):
    """The jobs of a launch, what trains them, and who began it when."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    n_jobs: CountOrZero = Field(alias="jobs")
    # The overrides of each job; None: a search finds them as it goes, or they are too many.
    overrides: list[list[str]] | None = None
    work: list[Work] | None = None  # of each job; None: all of them take the same
    launcher: str = ""  # as hydra/launcher= has it
    at_once: Count | None = None  # jobs that are given out together
    pid: Count | None = None  # of the process that gives them out; None: they wait in a queue
    host: str = ""
    began: NotNegative = 0.0  # seconds since the epoch
    grows: bool = False  # more jobs are asked for as these end

    @classmethod
    def of(
        cls,
        n_jobs: int,
        launcher: str,
        overrides: Sequence[Sequence[str]] | None = None,
        work: Sequence[Work] | None = None,
        at_once: int | None = None,
        is_followed: bool = True,
    ) -> LaunchPlan:
        """The plan of a launch that begins now, in this process."""
        return cls(
            jobs=n_jobs,
            overrides=None if overrides is None else [list(words) for words in overrides],
            work=None if work is None else list(work),
            launcher=launcher,
            at_once=at_once,
            pid=os.getpid() if is_followed else None,
            host=socket.gethostname(),
            began=time.time(),
        )

    @classmethod
    def read(cls, path: Path) -> LaunchPlan | None:
        """The plan at `path`; None where there is none, or something else."""
        try:
            plan = cls.model_validate(json.loads(read_small(path, MOST, within=path.parent)))
        except (OSError, ValueError, ValidationError, RecursionError):
            return None
        lists = (plan.overrides, plan.work)
        return plan if all(one is None or len(one) == plan.n_jobs for one in lists) else None

    def covers(self, other: LaunchPlan | None) -> bool:
        """Whether all jobs of another launch of this sweep are among the jobs of this one."""
        if other is None or other.overrides is None:  # a search takes up what the last one left
            return True
        mine = set(map(tuple, self.overrides or ()))
        return all(tuple(words) in mine for words in other.overrides)

    def write(self, path: Path, within: Path) -> None:
        """
        Raises:
            LabError: if it cannot be written.
        """
        content = self.model_dump_json(by_alias=True).encode()
        if len(content) > MOST:  # how many there are is what matters most
            few = self.model_copy(update={"overrides": None, "work": None})
            content = few.model_dump_json(by_alias=True).encode()
        write_atomically(path, content, within=within)
