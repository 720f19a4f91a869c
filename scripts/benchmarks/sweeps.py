"""Part 7, sweeps: whole commands, from their start to the finished leaderboard, by launcher, beside
the same steps, evaluations and full passes in loops written by hand, a process on each core."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import joblib

from benchmarks.rounds import Part, Ratio, Table, interleave, median, ratio
from benchmarks.tasks import composed
from lmlab.config.build import part as make
from lmlab.data.corpus import Corpus
from lmlab.errors import LabError

TRAIN = [sys.executable, "-c", "from lmlab.cli import train; train()"]
LOOPS, BASIC, LOCAL = "hand-written loops", "basic", "local"
AT_MOST = 1.3  # times the loops

# The words of a sweep without its seeds, and how many there are.
SWEEPS: dict[str, tuple[list[str], int]] = {
    "64 bigrams of 1,500 steps": (["experiment=lecture/bigram", "trainer.max_steps=1500"], 64),
    "32 single heads of 2,000 steps": (["experiment=lecture/head", "trainer.max_steps=2000"], 32),
    "16 stacks with LayerNorm of 1,000 steps": (
        ["experiment=lecture/layer_norm", "trainer.max_steps=1000"],
        16,
    ),
}


def _whole_command(words: list[str], n_seeds: int, launcher: str) -> tuple[float, list[float]]:
    """Seconds, and the losses of seeds 1, 2, …"""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        words = [*words, f"seed=range(1,{n_seeds + 1})", f"output_dir={folder}"]
        done = subprocess.run(
            [*TRAIN, "-m", *words, f"hydra/launcher={launcher}", "trainer.accelerator=cpu"],
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - begin
        if done.returncode:
            raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr[-500:]}")
        records = [json.loads(p.read_text()) for p in Path(folder).glob("sweeps/*/*/run.json")]
    losses = {one["swept"]["seed"]: one["metrics"]["val/loss_full"] for one in records}
    return seconds, [losses[seed] for seed in range(1, n_seeds + 1)]


def _loops(words: list[str], n_seeds: int) -> tuple[float, list[float]]:
    """As `_whole_command`, by benchmarks/loops.py."""
    config = composed(words)
    n = joblib.cpu_count()
    with tempfile.TemporaryDirectory() as folder:
        described, text = Path(folder, "config.json"), Path(folder, "text")
        described.write_text(json.dumps(config.plain()))
        text.write_text("".join(make(config.corpus, "corpus", Corpus).pieces()))
        shares = [range(1 + first, n_seeds + 1, n) for first in range(n)]
        begin = time.monotonic()
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.loops", text, described, *map(str, seeds)],
                cwd=Path(__file__).parents[1],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
            )
            for seeds in shares
        ]
        told = [process.communicate()[0].split() for process in processes]
        seconds = time.monotonic() - begin
    losses = [0.0] * n_seeds
    for seeds, of_share in zip(shares, told, strict=True):
        for seed, loss in zip(seeds, of_share, strict=True):
            losses[seed - 1] = float(loss)
    return seconds, losses


def _seconds(
    measured: Callable[[], tuple[float, list[float]]], losses: dict[str, list[float]]
) -> float:
    """
    Raises:
        LabError: if others have trained something else.
    """
    seconds, theirs = measured()
    ours = losses.setdefault("all", theirs)
    if not all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(ours, theirs, strict=True)):
        raise LabError(f"{LOOPS} do not train what the lab trains: {theirs} and {ours}")
    return seconds


def run(rounds: int, quick: bool) -> Part:
    """Each in processes of its own; the corpus is in the cache. `quick` takes a quarter of the
    seeds, of which start and report are a larger part."""
    part = Part("sweeps")
    rows = []
    for name, (words, n_seeds) in SWEEPS.items():
        n_seeds = n_seeds // 4 if quick else n_seeds
        losses: dict[str, list[float]] = {}
        measured = {
            LOOPS: partial(_loops, words, n_seeds),
            LOCAL: partial(_whole_command, words, n_seeds, LOCAL),
            BASIC: partial(_whole_command, words, n_seeds, BASIC),
        }
        turns = {who: partial(_seconds, takes, losses) for who, takes in measured.items()}
        part.seconds[name] = seconds = interleave(turns, rounds)
        rows.append([name, *(f"{median(took):.1f}" for took in seconds.values())])
        for launcher in (LOCAL, BASIC):
            aim = AT_MOST if launcher == LOCAL and not quick else None
            what = f"{name}: {launcher}, whole command / {LOOPS}"
            part.ratios.append(Ratio(what, ratio(seconds, launcher, LOOPS), aim))
    title = "sweeps: seconds of the whole command"
    part.tables.append(Table(title, ["", LOOPS, LOCAL, BASIC], rows))
    return part
