"""Part 6, start-up: what a person waits for before anything happens."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L

from benchmarks.rounds import Part, Ratio, Table, interleave, median

TRAIN = [sys.executable, "-c", "from lmlab.cli import train; train()"]
HELP, COMPLETION, MISTAKE, FIRST_STEP = (
    "--help",
    "tab completion",
    "a config error",
    "the first training step",
)
AT_MOST = {HELP: 1.0, MISTAKE: 1.0, FIRST_STEP: 6.0}


class FirstStep(L.Callback):
    """Says when the first optimizer step is done, and ends the process."""

    def on_train_batch_end(self, *_: Any) -> None:
        print(time.time(), flush=True)
        os._exit(0)


def _until_it_ends(words: list[str], status: int, **environment: str) -> float:
    begin = time.time()
    done = subprocess.run(
        [*TRAIN, *words], env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode != status:
        raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.time() - begin


def _until_the_first_step(folder: Path) -> float:
    words = ["experiment=quickstart", f"output_dir={folder}", "data.steps_per_batch=1"]
    words += [f"+callbacks.first._target_={FirstStep.__module__}.{FirstStep.__qualname__}"]
    finds_us = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    begin = time.time()
    done = subprocess.run([*TRAIN, *words], env=finds_us, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr[-500:]}")
    return float(done.stdout.split()[-1]) - begin


def run(rounds: int, quick: bool) -> Part:
    """Each in a process of its own; the corpus is in the cache."""
    line = "train.py model="
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    with tempfile.TemporaryDirectory() as folder:
        seconds = interleave(
            {
                HELP: partial(_until_it_ends, ["--help"], 0),
                COMPLETION: partial(_until_it_ends, ["-sc", "query=bash"], 0, **asked),
                MISTAKE: partial(_until_it_ends, ["model.n_layr=3"], 2),
                FIRST_STEP: partial(_until_the_first_step, Path(folder)),
            },
            2 if quick else rounds,
        )
    table = Table(
        "start-up: seconds",
        ["", "median", "slowest"],
        [[what, f"{median(took):.2f}", f"{max(took):.2f}"] for what, took in seconds.items()],
    )
    ratios = [
        Ratio(f"{what}, seconds", median(seconds[what]), most) for what, most in AT_MOST.items()
    ]
    return Part("startup", ratios, [table], {"startup": seconds})
