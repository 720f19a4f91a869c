"""Part 3, drawing a batch: a list of slices, as the notebook has it, against one gather."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.rounds import Part, Ratio, Table, interleave, median, ratio
from benchmarks.tasks import Task
from lmlab.data.windows import get_batch
from lmlab.errors import LabError

SLICES, OURS = "a list of slices", "lmlab"
BATCH_SIZES = (4, 16, 64, 256, 1024, 4096)
BLOCK_SIZES = (8, 64, 256)


def list_of_slices(
    data: Tensor, batch_size: int, block_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The notebook's get_batch; `data` is int64, so that nothing has to be converted."""
    ix = torch.randint(len(data) - block_size, (batch_size,), generator=generator)
    x = torch.stack([data[i : i + block_size] for i in ix])
    y = torch.stack([data[i + 1 : i + block_size + 1] for i in ix])
    return x, y


def _seconds(draw: Callable[[], object], n: int) -> float:
    begin = time.perf_counter()
    for _ in range(n):
        draw()
    return (time.perf_counter() - begin) / n


def run(rounds: int, quick: bool) -> Part:
    """Every batch size, for short and long windows."""
    part = Part("get_batch")
    tokens = Task(["model=bigram"]).tokens
    data = tokens.long()
    source = torch.Generator()
    for block_size in BLOCK_SIZES[1:2] if quick else BLOCK_SIZES:
        rows = []
        for batch_size in BATCH_SIZES:
            shape = batch_size, block_size
            slices = list_of_slices(data, *shape, source.manual_seed(0))
            ours = get_batch(tokens, *shape, source.manual_seed(0))
            if not all(map(torch.equal, slices, ours)):
                raise LabError("get_batch draws other windows than a list of slices")
            n = max(2, 2048 // batch_size)
            seconds = interleave(
                {
                    SLICES: partial(_seconds, partial(list_of_slices, data, *shape, source), n),
                    OURS: partial(_seconds, partial(get_batch, tokens, *shape, source), n),
                },
                rounds,
            )
            part.seconds[f"block_size={block_size} batch_size={batch_size}"] = seconds
            times = ratio(seconds, SLICES, OURS)
            rows.append(
                [str(batch_size), *(f"{median(took) * 1e6:,.0f}" for took in seconds.values())]
            )
            rows[-1].append(f"{times:.0f}x")
            if batch_size >= 64:
                what = f"get_batch ({batch_size} x {block_size}): {SLICES} / {OURS}"
                part.ratios.append(Ratio(what, times, at_least=10))
        part.tables.append(
            Table(
                f"get_batch, block_size {block_size}: microseconds",
                ["batch_size", SLICES, OURS, "times as fast"],
                rows,
            )
        )
    return part
