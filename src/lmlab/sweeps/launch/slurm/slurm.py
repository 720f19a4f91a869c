"""Jobs that are handed to a cluster's queue and left there: `sweep.wait=false`.

What was submitted is kept in the sweep's folder, so the same command finds out how the jobs are.
One that has ended has said so in the journal of its submission. Of the others the cluster knows
which wait or run; one that does neither was killed, and is submitted anew.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.console import say
from lmlab.errors import LabError
from lmlab.files import lock_at, make_folder, read_small, write_atomically
from lmlab.sweeps.journal.journal import FAILED, FOLDER, Journal, Result
from lmlab.sweeps.journal.planned import LaunchPlan
from lmlab.sweeps.launch.pool import check_settings
from lmlab.sweeps.launch.slurm.cluster import queued, submit_all

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher

KEPT, MOST_KEPT = "submitted.json", 1 << 28  # bytes


@dataclass(frozen=True)
class Place:
    """Where a job was submitted."""

    journal: str  # the name of the file that it writes to
    number: int  # of the job in it
    cluster_job: str  # the cluster's name for it


def check_outlives(launcher: Launcher) -> None:
    """
    Raises:
        LabError: if the launcher's jobs end with this process, or there is no cluster.
    """
    if type(launcher).__name__ != "SlurmLauncher":
        raise LabError(
            "sweep.wait=false: the jobs of this launcher end with the command; "
            "hydra/launcher=submitit_slurm leaves them to a cluster"
        )
    check_settings(launcher)


def submit(launcher: Launcher, sweep_dir: Path, jobs: Sequence[Sequence[str]]) -> list[Result]:
    """Submit what has not been, and give back how each job is. `check_outlives` goes before."""
    folder = sweep_dir / FOLDER
    make_folder(folder, within=sweep_dir)
    with lock_at(folder / f".{KEPT}.lock", sweep_dir):
        places = _read(folder / KEPT)
        keys = [json.dumps(list(job)) for job in jobs]
        there = {key: places[key] for key in keys if key in places}
        results: dict[str, Result | None] = dict(
            zip(there, how_they_are(sweep_dir, list(there.values())), strict=True)
        )
        new = [key for key in dict.fromkeys(keys) if results.get(key) is None]
        n_gone = sum(result is None for result in results.values())
        if new:
            waiting = [json.loads(key) for key in new]
            plan = LaunchPlan.of(len(new), "slurm", waiting, at_once=len(new), is_followed=False)
            journal = Journal.create(sweep_dir, plan)
            words = [[*job, f"sweep.job={journal.key(i)}"] for i, job in enumerate(waiting)]
            try:
                names = [job.job_id for job in submit_all(launcher, words)]
            except LabError:
                journal.discard()
                raise
            for number, (key, name) in enumerate(zip(new, names, strict=True)):
                places[key] = Place(journal.path.name, number, name)
                results[key] = Result(None, None, "submitted")
        for key, result in results.items():
            if result is not None and result.status in FAILED:
                del places[key]  # said now, and tried again by the next command
        kept = {key: asdict(place) for key, place in places.items()}
        write_atomically(folder / KEPT, json.dumps(kept, indent=1).encode())
    known = [result for key in keys if (result := results[key]) is not None]
    _say_how_they_are(known, len(new), n_gone)
    return known


def how_they_are(sweep_dir: Path, places: Sequence[Place]) -> Iterator[Result | None]:
    """How submitted jobs are; None for one that is gone without having ended.

    Raises:
        LabError: if the cluster does not say.
    """
    # In this order: what ends in between has said so.
    states = queued() if places else {}
    journals = {name: Journal(sweep_dir / FOLDER / name) for name in {p.journal for p in places}}
    for journal in journals.values():
        while journal.path.is_file() and journal.news():
            pass
    for place in places:
        event, state = journals[place.journal].last.get(place.number), states.get(place.cluster_job)
        if event is not None and event.status != "running":
            yield event.result
        elif state is None:
            yield None
        elif event is None or state == "PENDING":  # put back into the queue, it waits again
            yield Result(None, None, "submitted")
        else:
            yield Result(None, event.run, "running")


def _read(path: Path) -> dict[str, Place]:
    try:
        stored = json.loads(read_small(path, MOST_KEPT, within=path.parent))
        return {key: Place(**place) for key, place in stored.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LabError(
            f"{path} cannot be read: delete it once none of the sweep's jobs is in the queue"
        ) from error


def _say_how_they_are(results: Sequence[Result], n_new: int, n_gone: int) -> None:
    counts = Counter(result.status for result in results)
    ended = ("done", "paused", "pruned", "failed", "killed")
    order = (*ended, "running", "submitted", "skipped", "planned")
    parts = [f"{counts[status]} {status}" for status in order if counts[status]]
    say(f"{len(results)} jobs: {', '.join(parts)}" + (f" ({n_new} of them now)" if n_new else ""))
    for result in results:
        if result.status in FAILED:
            say(f"failed  {Path(str(result.run)).name}  {result.error}")
    if n_gone:
        say(f"{n_gone} that the cluster took away go on from their last checkpoints")
    if counts["running"] or counts["submitted"]:
        say("they go on without this command; the same one says how they are")
