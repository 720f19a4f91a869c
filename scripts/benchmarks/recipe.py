"""Part 2, a whole run: nanoGPT's recipe for a CPU, evaluations included."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rounds import Part, Ratio, Seconds, Table, median, ratio
from benchmarks.tasks import Task, as_a_user_has_it
from lmlab.config import build
from lmlab.console import quiet_libraries
from lmlab.core.train import train
from lmlab.data.ids import Ids
from lmlab.data.windows import full_pass, shift

NANOGPT, OURS, FAST = "nanoGPT-style, float32", "lmlab, float32", "lmlab, trainer=fast"
SEEDS = (1, 2, 3)
WITHOUT = ("~callbacks.pictures", "~callbacks.projector")  # which the other does not make


def nanogpt_style(task: Task) -> tuple[float, float]:
    """nanoGPT's train.py on a CPU: eager, float32, its get_batch, its estimate_loss.

    Returns:
        seconds, and the loss on every token of val afterwards.
    """
    config = task.config
    batch_size, block_size = task.batch_size, task.block_size
    every, iters = config.eval.every, config.eval.iters
    max_steps = config.trainer.max_steps
    n_train = len(task.tokens)
    ids: np.ndarray = task.text.ids.whole().numpy()
    splits = {"train": ids[:n_train], "val": ids[n_train:]}
    schedule, source = build.schedule(config.schedule), task.batches()

    def get_batch(split: str, source: torch.Generator | None) -> tuple[Tensor, Tensor]:
        data = splits[split]
        ix = torch.randint(len(data) - block_size, (batch_size,), generator=source).tolist()
        x = torch.stack([torch.from_numpy(data[i : i + block_size].astype(np.int64)) for i in ix])
        y = torch.stack(
            [torch.from_numpy(data[i + 1 : i + 1 + block_size].astype(np.int64)) for i in ix]
        )
        return x, y

    begin = time.perf_counter()
    model = task.model()
    optimizer = task.optimizer(model, fused=False)
    best = float("inf")
    for step in range(max_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer["lr"] * schedule(step, max_steps)
        if step % every == 0:
            losses = _estimate_loss(model, get_batch, iters)
            if losses["val"] < best and step > 0:
                best = losses["val"]
                torch.save((model.state_dict(), optimizer.state_dict()), task.folder / "ckpt.pt")
        if step == max_steps:
            break
        x, y = get_batch("train", source)
        logits = model(x)
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))
        loss.backward()
        if task.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # its log_interval is 1
    return time.perf_counter() - begin, _on_all_of_val(model, task, torch.from_numpy(splits["val"]))


@torch.no_grad()
def _estimate_loss(model: nn.Module, get_batch: Any, iters: int) -> dict[str, float]:
    out = {}
    model.eval()
    for split in ("train", "val"):
        losses = torch.zeros(iters)
        for k in range(iters):
            x, y = get_batch(split, None)
            losses[k] = F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
        out[split] = losses.mean().item()
    model.train()
    return out


@torch.no_grad()
def _on_all_of_val(model: nn.Module, task: Task, val: Tensor) -> float:
    total = 0.0
    for windows, counted in full_pass(Ids(val), task.block_size, task.block_size, 64):
        idx, targets = shift(windows)
        nll = F.cross_entropy(model(idx).transpose(1, 2), targets, reduction="none")
        counts = torch.arange(task.block_size) >= task.block_size - counted[:, None]
        total += nll[counts].double().sum().item()
    return total / (len(val) - 1)


def lmlab_run(task: Task, folder: Path) -> tuple[float, float]:
    """`scripts/train.py` with the task's config: samples and the full pass at the end included."""
    begin = time.perf_counter()
    run = train(task.config.model_copy(update={"output_dir": str(folder)}))
    assert run is not None
    return time.perf_counter() - begin, run.record["metrics"]["val/loss_full"]


def run(rounds: int, quick: bool) -> Part:
    """A round is a seed, at most three; `quick` takes a tenth of the steps of one."""
    quiet_libraries()
    part = Part("recipe")
    seeds = SEEDS[: 1 if quick else rounds]
    seconds: Seconds = {NANOGPT: [], OURS: [], FAST: []}
    losses: dict[str, list[float]] = {name: [] for name in seconds}
    with as_a_user_has_it() as folder:
        for seed in seeds:
            words = ["experiment=nanogpt/cpu", f"seed={seed}", *WITHOUT]
            words += ["trainer.max_steps=200"] if quick else []
            for name in seconds:
                task = Task([*words, "trainer=fast"] if name == FAST else words, folder)
                ends = nanogpt_style(task) if name == NANOGPT else lmlab_run(task, folder)
                seconds[name].append(ends[0])
                losses[name].append(ends[1])
    part.seconds["recipe"] = seconds
    mean = {name: float(np.mean(values)) for name, values in losses.items()}
    part.ratios += [
        Ratio(f"GPT recipe, whole run: {FAST} / {NANOGPT}", ratio(seconds, FAST, NANOGPT), 0.5),
        Ratio(f"GPT recipe, whole run: {OURS} / {NANOGPT}", ratio(seconds, OURS, NANOGPT)),
        Ratio(f"GPT recipe, final loss: {FAST} - {NANOGPT}", mean[FAST] - mean[NANOGPT], 0.01),
        Ratio(f"GPT recipe, final loss: {OURS} - {NANOGPT}", mean[OURS] - mean[NANOGPT], 0.01),
    ]
    part.tables.append(
        Table(
            f"nanogpt/cpu, {task.config.trainer.max_steps} steps, seeds "
            f"{', '.join(map(str, seeds))}",
            ["", "seconds", "/ nanoGPT-style", "val/loss_full, mean of seeds"],
            [
                [
                    name,
                    f"{median(took):.1f}",
                    f"{ratio(seconds, name, NANOGPT):.2f}",
                    f"{mean[name]:.4f}",
                ]
                for name, took in seconds.items()
            ],
        )
    )
    return part
