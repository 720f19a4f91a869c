"""Part 8: the records beside nanoGPT's recipe for a CPU, each a whole run, in one round.

Seconds are of the whole command after imports: the corpus, set-up, evaluations, checkpoints,
samples and the full pass over val at the end.
"""

from __future__ import annotations

import numpy as np

from benchmarks.recipe import NANOGPT, SEEDS, lmlab_run, nanogpt_style
from benchmarks.rounds import Part, Ratio, Seconds, Table, median, ratio
from benchmarks.tasks import Task, as_a_user_has_it
from lmlab.console import quiet_libraries

RECORDS = ("record/fast", "record/counts", "record/cpu")  # what takes minutes
QUICK = ("record/fast",)


def run(rounds: int, quick: bool) -> Part:
    """A round is a seed, at most three; `quick` takes one seed of the fastest alone."""
    quiet_libraries()
    part = Part("records")
    seeds = SEEDS[: 1 if quick else rounds]
    seconds: Seconds = {name: [] for name in (NANOGPT, *(QUICK if quick else RECORDS))}
    losses: dict[str, list[float]] = {name: [] for name in seconds}
    with as_a_user_has_it() as folder:
        for seed in seeds:
            for name in seconds:
                experiment = "nanogpt/cpu" if name == NANOGPT else name
                task = Task([f"experiment={experiment}", f"seed={seed}"], folder)
                ends = nanogpt_style(task) if name == NANOGPT else lmlab_run(task, folder)
                seconds[name].append(ends[0])
                losses[name].append(ends[1])
    part.seconds["records"] = seconds
    part.ratios += [
        Ratio(f"{name}, whole run / {NANOGPT}", ratio(seconds, name, NANOGPT))
        for name in seconds
        if name != NANOGPT
    ]
    part.tables.append(
        Table(
            f"Records, seeds {', '.join(map(str, seeds))}",
            ["", "seconds", "/ nanoGPT-style", "val/loss_full by seed", "mean"],
            [
                [
                    name,
                    f"{median(took):.1f}",
                    f"{ratio(seconds, name, NANOGPT):.2f}",
                    ", ".join(f"{loss:.4f}" for loss in losses[name]),
                    f"{np.mean(losses[name]):.4f}",
                ]
                for name, took in seconds.items()
            ],
        )
    )
    return part
