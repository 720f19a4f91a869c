"""Part 11, minimal pairs: one text after the other, and by length with prefixes read once."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.rounds import Part, Ratio, Seconds, Table, interleave, median, ratio
from benchmarks.tasks import Task
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.tasks.items import Item
from lmlab.tasks.likelihood import ask

LOOP, OURS = "one by one", "lmlab"
N_PAIRS, LENGTH = 2000, 60  # characters


@torch.no_grad()
def one_by_one(model: nn.Module, tokenizer: Tokenizer, items: list[Item]) -> list[list[float]]:
    """Nats of each text, behind a line break."""
    told = []
    for item in items:
        texts = [
            torch.tensor(tokenizer.encode("\n" + text), dtype=torch.long) for text in item.choices
        ]
        told.append(
            [
                -F.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="sum").item()
                for ids in texts
            ]
        )
    return told


def run(rounds: int, quick: bool) -> Part:
    """The quickstart's model, as it is before training. `quick` asks a tenth of the pairs."""
    part = Part("minimal pairs")
    task = Task(["experiment=quickstart", "trainer.accelerator=cpu"])
    model, tokenizer = task.model().eval(), task.text.tokenizer
    items = pairs(
        tokenizer.decode(task.tokens[: 1 << 20].tolist()), N_PAIRS // (10 if quick else 1)
    )
    answers: dict[str, np.ndarray] = {}

    def timed(name: str) -> float:
        begin = time.perf_counter()
        if name == OURS:
            answers[name] = ask(model, tokenizer, items).log_probs
        else:
            answers[name] = np.array(one_by_one(model, tokenizer, items))
        return time.perf_counter() - begin

    contestants = {name: (lambda name=name: timed(name)) for name in (LOOP, OURS)}
    seconds: Seconds = interleave(contestants, min(rounds, 3))
    if not np.allclose(answers[LOOP], answers[OURS], rtol=1e-4, atol=1e-3):
        raise LabError("the two disagree about the same pairs")
    part.seconds[f"{len(items):,} pairs"] = seconds
    part.ratios.append(Ratio(f"minimal pairs: {LOOP} / {OURS}, time", ratio(seconds, LOOP, OURS)))
    if not quick:
        part.ratios.append(
            Ratio(
                f"{N_PAIRS:,} pairs of {LENGTH} characters, seconds",
                median(seconds[OURS]),
                at_most=1,
            )
        )
    part.tables.append(
        Table(
            f"{len(items):,} pairs of {LENGTH} characters, the quickstart's model",
            ["", "seconds", "characters/s"],
            [
                [who, f"{median(took):.2f}", f"{2 * len(items) * LENGTH / median(took):,.0f}"]
                for who, took in seconds.items()
            ],
        )
    )
    return part


def pairs(text: str, n: int) -> list[Item]:
    """Pieces of a text, and the same with one letter of them, anywhere, written as another."""
    draw = np.random.default_rng(0)
    items = []
    for start in draw.integers(len(text) - LENGTH, size=n).tolist():
        right, place = text[start : start + LENGTH], int(draw.integers(LENGTH))
        other = "e" if right[place] != "e" else "t"
        items.append(Item("", (right, right[:place] + other + right[place + 1 :])))
    return items
