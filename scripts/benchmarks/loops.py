"""The jobs of a sweep as one writes them by hand: a process that trains its share of the seeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from lmlab.config import build
from lmlab.data.ids import Ids
from lmlab.data.streams import derive, generator
from lmlab.data.windows import draw_windows, full_pass, shift

AT_A_TIME = 4096  # tokens evaluated at a time


def loss_of(model: nn.Module, windows: Tensor) -> Tensor:
    """Mean loss in nats per token of windows (n, block_size + 1)."""
    idx, targets = shift(windows)
    return F.cross_entropy(model(idx).flatten(0, 1), targets.flatten())


@torch.inference_mode()
def mean_loss(model: nn.Module, windows: Tensor, at_a_time: int) -> float:
    """Of any number of windows."""
    parts = windows.split(at_a_time)
    return sum(loss_of(model, some).item() * len(some) for some in parts) / len(windows)


def train(config: dict[str, Any], tokens: Tensor, vocab_size: int, seed: int) -> float:
    """A run's steps and evaluations, and no more; its loss on all of val."""
    data, evals = config["data"], config["eval"]
    batch_size, block_size = data["batch_size"], data["block_size"]
    n_train = int((1 - data["val_fraction"]) * len(tokens))
    splits = Ids(tokens[n_train:]), Ids(tokens[:n_train])
    at_a_time = AT_A_TIME // block_size
    torch.manual_seed(derive(seed, "init"))
    model = build.model(config["model"], vocab_size, block_size)
    settings = {k: v for k, v in config["optimizer"].items() if not k.startswith("_")}
    decay = settings.pop("weight_decay")
    groups = [
        {"params": [p for p in model.parameters() if (p.dim() > 1) is is_matrix], "weight_decay": w}
        for is_matrix, w in ((True, decay), (False, 0.0))
    ]
    optimizer = AdamW([group for group in groups if group["params"]], **settings)
    source = generator(seed, "data")

    def evaluate() -> None:
        model.eval()
        drawn = generator(seed, "eval")
        for split in splits:
            windows = draw_windows(split, evals["iters"], batch_size, block_size, drawn)
            mean_loss(model, windows.flatten(0, 1), at_a_time)
        model.train()

    max_steps = config["trainer"]["max_steps"]
    evaluate()
    for begin in range(0, max_steps, evals["every"]):
        n_steps = min(evals["every"], max_steps - begin)
        for windows in draw_windows(splits[1], n_steps, batch_size, block_size, source):
            loss_of(model, windows).backward()
            optimizer.step()
            optimizer.zero_grad()
        evaluate()
    model.eval()
    total, n = 0.0, 0
    with torch.inference_mode():
        for windows, counted in full_pass(splits[0], block_size, block_size, at_a_time):
            idx, targets = shift(windows)
            losses = F.cross_entropy(model(idx).transpose(1, 2), targets, reduction="none")
            counts = torch.arange(block_size - 1, -1, -1) < counted[:, None]
            total, n = total + losses[counts].sum().item(), n + int(counts.sum())
    return total / n


if __name__ == "__main__":
    # loops.py TEXT CONFIG.json SEED…: a loss for each seed, a line each
    text, described, *seeds = sys.argv[1:]
    characters = np.frombuffer(Path(text).read_bytes(), np.uint8)
    alphabet, ids = np.unique(characters, return_inverse=True)
    tokens = torch.from_numpy(ids.astype(np.uint8))
    config = json.loads(Path(described).read_text())
    for seed in map(int, seeds):
        print(train(config, tokens, len(alphabet), seed), flush=True)
