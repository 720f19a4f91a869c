"""Part 7, sweeps: whole commands, from their start to the finished leaderboard, by launcher."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial

from benchmarks.rounds import Part, Ratio, Seconds, Table, interleave, median, ratio

TRAIN = [sys.executable, "-c", "from lmlab.cli import train; train()"]
BASIC, JOBLIB = LAUNCHERS = ("basic", "joblib")
GPT = ["model=gpt", "model.n_layer=2", "model.n_embd=64", "data.block_size=64"]
GPT += ["data.batch_size=12", "trainer.max_steps=500", "eval.iters=20"]

# The words of a sweep without its seeds, and how many there are.
SWEEPS: dict[str, tuple[list[str], int]] = {
    "64 bigrams of 3,000 steps": (["experiment=lecture/bigram"], 64),
    "32 single heads of 2,000 steps": (["experiment=lecture/head", "trainer.max_steps=2000"], 32),
    "16 stacks with LayerNorm of 1,000 steps": (
        ["experiment=lecture/layer_norm", "trainer.max_steps=1000"],
        16,
    ),
    "16 GPTs of 0.1 M parameters, 500 steps": (GPT, 16),
}


def _whole_command(words: list[str], n_seeds: int, launcher: str) -> float:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        words = [*words, f"seed=range(1,{n_seeds + 1})", f"output_dir={folder}"]
        done = subprocess.run(
            [*TRAIN, "-m", *words, f"hydra/launcher={launcher}", "trainer.accelerator=cpu"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr[-500:]}")
        return time.monotonic() - begin


def run(rounds: int, quick: bool) -> Part:
    """Each in a process of its own; the corpus is in the cache. `quick` takes a quarter of the
    seeds, which favours the launchers that start at once."""
    kept: dict[str, Seconds] = {}
    ratios, rows = [], []
    for name, (words, n_seeds) in SWEEPS.items():
        n_seeds = n_seeds // 4 if quick else n_seeds
        contestants = {la: partial(_whole_command, words, n_seeds, la) for la in LAUNCHERS}
        kept[name] = seconds = interleave(contestants, rounds)
        rows.append([name, *(f"{median(seconds[launcher]):.1f}" for launcher in LAUNCHERS)])
        times = 1 / ratio(seconds, JOBLIB, BASIC)
        ratios.append(Ratio(f"{name}: {JOBLIB}, times as fast as {BASIC}", times))
    table = Table("sweeps: seconds of the whole command", ["", *LAUNCHERS], rows)
    return Part("sweeps", ratios, [table], kept)
