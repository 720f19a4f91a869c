"""What an evaluation looks at: windows of a split, a few at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from lmlab.console import count_progress
from lmlab.data.ids import Ids
from lmlab.data.streams import generator
from lmlab.data.windows import draw_windows, full_pass

# Evaluated at a time, whatever the batch size of training: few enough that what a layer hands to
# the next is still in the cache.
EVAL_TOKENS = 1 << 12
EVAL_LOGITS = 1 << 22  # 16 MB of float32: a limit for large vocabularies
EVALS_PER_BATCH = 16  # for Lightning, whose loop costs as much as evaluating a small model
LOOKS = 50  # that a bar is moved, at least, where a pass has so many EvalBatches
FULL = "val/loss_full"


class EvalBatch(NamedTuple):
    """Windows to evaluate, and the metric that their losses go to."""

    metric: str  # val/loss, val/loss_full or train/loss_eval
    windows: Tensor  # (n, block_size + 1), int64
    counted: Tensor  # (n,): how many of each window's last predictions count


def evaluated_at_a_time(block_size: int, vocab_size: int) -> int:
    """How many windows."""
    return max(1, min(EVAL_TOKENS, EVAL_LOGITS // vocab_size) // block_size)


@dataclass
class RandomEval:
    """The lecture's protocol: `iters` random batches of each split.

    They come from a generator of their own that starts afresh each time: evaluations look at the
    same windows, so a curve moves because the model does, and training is not touched. All windows
    weigh the same, so how many are evaluated at a time is a matter of speed alone.
    """

    splits: dict[str, Ids]  # metric -> tokens
    batch_size: int
    block_size: int
    iters: int
    vocab_size: int
    seed: int
    rank: int = 0  # of `world_size` processes: each takes its share of every batch, as in training
    world_size: int = 1

    def __len__(self) -> int:
        at_a_time = evaluated_at_a_time(self.block_size, self.vocab_size)
        return len(self.splits) * math.ceil(self.iters * self.batch_size / at_a_time)

    def __iter__(self) -> Iterator[EvalBatch]:
        source = generator(self.seed, "eval")
        at_a_time = evaluated_at_a_time(self.block_size, self.vocab_size)
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        drawn = self.batch_size * self.world_size
        for metric, tokens in self.splits.items():
            batches = draw_windows(tokens, self.iters, drawn, self.block_size, source, mine)
            for windows in batches.flatten(0, 1).split(at_a_time):
                counted = torch.full((len(windows),), self.block_size, device=windows.device)
                yield EvalBatch(metric, windows, counted)


@dataclass
class FullEval:
    """Every token of the split (but the first) predicted once; see `windows.full_pass`."""

    metric: str
    tokens: Ids
    block_size: int
    stride: int
    vocab_size: int
    rank: int = 0
    world_size: int = 1

    @property
    def batch_size(self) -> int:
        return evaluated_at_a_time(self.block_size, self.vocab_size)

    def __len__(self) -> int:
        n_windows = 1 + math.ceil((len(self.tokens) - 1 - self.block_size) / self.stride)
        return math.ceil(n_windows / self.batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        mine = slice(self.rank, None, self.world_size)
        for windows, counted in full_pass(
            self.tokens, self.block_size, self.stride, self.batch_size
        ):
            if len(windows) > self.rank:
                yield EvalBatch(self.metric, windows[mine], counted[mine])
            else:  # all processes take part in every evaluation: this one counts nothing
                yield EvalBatch(self.metric, windows[:1], torch.zeros_like(counted[:1]))


@dataclass
class EvalLoader:
    """Several EvalBatches at a time."""

    evals: RandomEval | FullEval
    at_a_time: int = EVALS_PER_BATCH

    def __len__(self) -> int:
        return math.ceil(len(self.evals) / self.at_a_time)

    def __iter__(self) -> Iterator[list[EvalBatch]]:
        rest = iter(self.evals)
        while batch := list(islice(rest, self.at_a_time)):
            yield batch


class LoaderOfTheEnd(EvalLoader):
    """The full pass at the end, which may take long: it shows how far it is."""

    evals: FullEval

    def __init__(self, evals: FullEval):
        super().__init__(evals, max(1, min(EVALS_PER_BATCH, len(evals) // LOOKS)))

    def __iter__(self) -> Iterator[list[EvalBatch]]:
        left = len(self.evals.tokens) - 1
        with count_progress(f"{FULL}, a pass over val", left, "tokens") as advance:
            for batch in super().__iter__():
                yield batch
                done = min(left, len(batch) * self.evals.batch_size * self.evals.stride)
                advance(done)
                left -= done
