"""Part 4, generation: all recomputed for every token, against what is new alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.rounds import Part, Ratio, Seconds, Table, interleave, median, ratio
from lmlab.errors import LabError
from lmlab.models.gpt import GPT
from lmlab.models.sampling import generate, probabilities

RECOMPUTE, OURS = "recompute", "lmlab"
BLOCK_SIZE = 256
MODELS = {"4 layers, 128": (4, 4, 128), "6 layers, 384": (6, 6, 384)}
# Sequences, length of the prompt, new tokens: a whole window, the end of one, and past it.
CASES = ((1, 1, 255), (1, 224, 32), (1, 256, 32), (64, 240, 16), (64, 256, 8))


@torch.no_grad()
def recompute(
    model: nn.Module, idx: Tensor, max_new_tokens: int, generator: list[torch.Generator]
) -> Iterator[Tensor]:
    """The generate of nanoGPT and of the notebook, a generator for each sequence."""
    for _ in range(max_new_tokens):
        probs = probabilities(model(idx[:, -BLOCK_SIZE:])[:, -1])
        rows = zip(probs, generator, strict=True)
        token = torch.stack([torch.multinomial(row, 1, generator=source) for row, source in rows])
        idx = torch.cat([idx, token], dim=1)
        yield token


def run(rounds: int, quick: bool) -> Part:
    """One sequence and 64, up to the block size and past it."""
    part = Part("generation")
    for name, (n_layer, n_head, n_embd) in MODELS.items():
        torch.manual_seed(0)
        model = GPT(65, BLOCK_SIZE, n_layer, n_head, n_embd).eval()
        rows = []
        for n_sequences, prompt, n_new in CASES:
            if n_sequences > 1 and (quick or n_embd > 128):
                continue  # it would take minutes
            seconds = _measure(model, n_sequences, prompt, n_new, min(rounds, 3))
            times = ratio(seconds, RECOMPUTE, OURS)
            what = f"{name}: {n_sequences} x token {prompt + 1} to {prompt + n_new}"
            part.seconds[what] = seconds
            # A single sequence of the small model is bound by the number of operations.
            large = n_embd > 128 or n_sequences > 1
            full = BLOCK_SIZE - 32 <= prompt < BLOCK_SIZE
            at_least = 8 if large and full else None
            part.ratios.append(
                Ratio(f"generate, {what}: {RECOMPUTE} / {OURS}", times, at_least=at_least)
            )
            per_token = [f"{median(took) / n_new * 1e3:.2f}" for took in seconds.values()]
            span = f"{prompt + 1} to {prompt + n_new}"
            rows.append([str(n_sequences), span, *per_token, f"{times:.1f}x"])
        part.tables.append(
            Table(
                f"generation, {name}, block_size {BLOCK_SIZE}: milliseconds a position",
                ["sequences", "tokens", RECOMPUTE, OURS, "times as fast"],
                rows,
            )
        )
    return part


def _measure(model: nn.Module, n_sequences: int, prompt: int, n_new: int, rounds: int) -> Seconds:
    idx = torch.randint(65, (n_sequences, prompt), generator=torch.Generator().manual_seed(0))
    made: dict[str, Tensor] = {}

    def timed(name: str) -> float:
        sources = [torch.Generator().manual_seed(i) for i in range(n_sequences)]
        begin = time.perf_counter()
        if name == OURS:
            tokens = list(generate(model, idx, n_new, generator=sources))
        else:
            tokens = list(recompute(model, idx, n_new, sources))
        took = time.perf_counter() - begin
        made[name] = torch.cat(tokens, dim=1)
        return took

    names = (RECOMPUTE, OURS)
    seconds = interleave({name: partial(timed, name) for name in names}, rounds)
    if not torch.equal(made[OURS], made[RECOMPUTE]):
        raise LabError("what is remembered changed a token")
    return seconds
