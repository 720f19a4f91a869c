"""One training in a process of its own, and the processor time that it takes.

    python -m lmlab.sweeps.records.spending SPENT OVERRIDE …

A line is put into the file SPENT when training begins, and one with the seconds when it is over,
interrupted or not. A run that was killed leaves the first alone: nobody knows then what it took.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

from lmlab.config.check import check
from lmlab.config.schema import Train
from lmlab.config.words.compose import composed
from lmlab.core.train import train
from lmlab.errors import LabError
from lmlab.runs.parents import resolve
from lmlab.training.processes.stopping import Interrupted


class Spent(NamedTuple):
    """Seconds of a training, its imports not among them."""

    cpu: float  # of all threads and processes
    wall: float

    def __add__(self, other: object) -> Spent:
        assert isinstance(other, Spent)
        return Spent(self.cpu + other.cpu, self.wall + other.wall)


def cpu_seconds() -> float:
    """The processor time of this process, its threads, and the children that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def spent_in(file: Path) -> Spent:
    """What a training has taken so far, in all of its tries.

    Raises:
        LabError: if one of them was killed.
    """
    total, begun = Spent(0.0, 0.0), 0
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        entry = json.loads(line)
        begun += "begun" in entry
        if "cpu" in entry:
            begun -= 1
            total += Spent(entry["cpu"], entry["wall"])
    if begun:
        raise LabError(
            f"{file}: it was killed, and nobody knows what it took: delete {file.parent}, and its "
            "seed begins anew"
        )
    return total


def main() -> None:
    """Train, and keep what it took."""
    file, words = Path(sys.argv[1]), sys.argv[2:]
    cpu, wall, status = cpu_seconds(), time.perf_counter(), 0
    _append(file, {"begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "pid": os.getpid()})
    try:
        train(resolve(check(composed("train", words), Train)))
    except Interrupted as stopped:
        status = 128 + stopped.signum
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    finally:
        took = {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall}
        _append(file, {name: round(seconds, 2) for name, seconds in took.items()})
    sys.exit(status)


def _append(file: Path, entry: dict[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
