"""Part 1, the training step: four ways to train the same model on the same batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.rounds import Part, Ratio, Table, interleave, median, ratio
from benchmarks.tasks import MODELS, Task, as_a_user_has_it
from lmlab.config.check import check_plain
from lmlab.config.schema import Train
from lmlab.console import quiet_libraries
from lmlab.core.train import train
from lmlab.data.windows import get_batch
from lmlab.errors import LabError

STEPS = {"bigram": 2000, "head": 1000, "gpt": 120}
NOTEBOOK, CAREFUL, PLAIN, OURS = (
    "the notebook's loop",
    "a careful loop",
    "plain Lightning",
    "lmlab, everything on",
)
AT_MOST = {
    "bigram": {NOTEBOOK: 0.35, CAREFUL: 1.15},
    "head": {CAREFUL: 1.15},
    "gpt": {CAREFUL: 1.02},
}

# How each contestant ends: seconds for its steps, the last step's loss, and the weights.
Trained = tuple[float, float, dict[str, Tensor]]


def notebook_loop(task: Task, n_steps: int) -> Trained:
    """As one writes it first."""
    model = task.model()
    optimizer = task.optimizer(model, fused=False)
    data, source = task.tokens.long(), task.batches()
    batch_size, block_size = task.batch_size, task.block_size

    begin = time.perf_counter()
    for _ in range(n_steps):
        ix = torch.randint(len(data) - block_size, (batch_size,), generator=source)
        x = torch.stack([data[i : i + block_size] for i in ix])
        y = torch.stack([data[i + 1 : i + block_size + 1] for i in ix])

        logits = model(x)
        B, T, C = logits.shape
        loss = F.cross_entropy(logits.view(B * T, C), y.view(B * T))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if task.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm)
        optimizer.step()
    last_loss = loss.item()
    return time.perf_counter() - begin, last_loss, model.state_dict()


def careful_loop(task: Task, n_steps: int) -> Trained:
    """As one writes it once its profile was seen: a vectorised batch, a fused optimizer."""
    model = task.model()
    optimizer = task.optimizer(model, fused=True)
    parameters = list(model.parameters())
    data, source = task.tokens.long(), task.batches()
    offsets = torch.arange(task.block_size)
    n_starts, batch_shape = len(data) - task.block_size, (task.batch_size,)

    begin = time.perf_counter()
    for _ in range(n_steps):
        at = torch.randint(n_starts, batch_shape, generator=source)[:, None] + offsets
        x, y = data[at], data[at + 1]
        logits = model(x)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        if task.clip_norm:
            nn.utils.clip_grad_norm_(parameters, task.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    last_loss = loss.item()
    return time.perf_counter() - begin, last_loss, model.state_dict()


class PlainModule(L.LightningModule):
    """As Lightning's own introduction has it."""

    def __init__(self, task: Task):
        super().__init__()
        self.task, self.model = task, task.model()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        idx, targets = batch
        loss = F.cross_entropy(self.model(idx).flatten(0, 1), targets.flatten())
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Optimizer:
        return self.task.optimizer(self.model, fused=True)


class Batches(torch.utils.data.IterableDataset):
    """One batch after the other."""

    def __init__(self, task: Task, n: int):
        self.task, self.n, self.source = task, n, task.batches()

    def __iter__(self) -> Any:
        task = self.task
        for _ in range(self.n):
            yield get_batch(task.tokens, task.batch_size, task.block_size, self.source)


class Clock(L.Callback):
    """Seconds from the first batch to the end of the last."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.begin = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.begin


def plain_lightning(task: Task, n_steps: int) -> Trained:
    """A usual LightningModule, one step per batch, its logger, bar and checkpoints on."""
    module, clock = PlainModule(task), Clock()
    trainer = L.Trainer(
        max_steps=n_steps,
        max_epochs=1,
        accelerator="cpu",
        logger=TensorBoardLogger(task.folder),
        callbacks=[clock, ModelCheckpoint(task.folder)],
        gradient_clip_val=task.clip_norm,
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader(Batches(task, n_steps), batch_size=None)
    trainer.fit(module, loader)
    last_loss = float(trainer.callback_metrics["train_loss"])
    return clock.seconds, last_loss, module.model.state_dict()


class OurClock(L.Callback):
    """Seconds from the first step to the evaluation that follows the last. It is left where the
    benchmark finds it: the run makes its callbacks from its config."""

    last: OurClock

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        OurClock.last = self
        self.begin, self.module = time.perf_counter(), module

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.state.fn == "fit":
            self.seconds = time.perf_counter() - self.begin


def ours(task: Task, n_steps: int) -> Trained:
    """What `scripts/train.py` does, with TensorBoard, CSV, progress bar and checkpoints."""
    config = {
        **task.config.plain(),
        "output_dir": str(task.folder),
        "trainer": {**task.config.trainer.plain(), "max_steps": n_steps},
        "eval": {**task.config.eval.plain(), "every": n_steps, "iters": 1, "at_start": False},
        "callbacks": {"clock": {"_target_": f"{OurClock.__module__}.{OurClock.__qualname__}"}},
    }
    train(check_plain(config, Train))
    clock = OurClock.last
    return clock.seconds, clock.module.last_loss, clock.module.model.state_dict()


def run(rounds: int, quick: bool) -> Part:
    """Measure all three models."""
    quiet_libraries()
    part = Part("steps")
    with as_a_user_has_it() as folder:
        for name, overrides in MODELS.items():
            n_steps = STEPS[name] // (4 if quick else 1)
            _measure(part, name, Task(overrides, folder), n_steps, rounds)
    return part


def contestants(task: Task, n_steps: int) -> dict[str, Callable[[], Trained]]:
    """By name; each trains `n_steps` from the start."""
    return {
        NOTEBOOK: partial(notebook_loop, task, n_steps),
        CAREFUL: partial(careful_loop, task, n_steps),
        PLAIN: partial(plain_lightning, task, n_steps),
        OURS: partial(ours, task, n_steps),
    }


def check_same(task: Task, n_steps: int = 20) -> None:
    """Whether all contestants train the same thing.

    Ours and a careful loop's losses and weights must agree bit for bit; the notebook's optimizer
    and Lightning's clipping add up in another order, so theirs up to rounding.

    Raises:
        LabError: if not.
    """
    ends = {name: trains() for name, trains in contestants(task, n_steps).items()}
    _, loss, weights = ends[CAREFUL]
    for name, (_, other_loss, other) in ends.items():
        rtol, atol = (0.0, 0.0) if name == OURS else (1e-3, 1e-4)
        same = math.isclose(loss, other_loss, rel_tol=rtol) and all(
            torch.allclose(weights[key], other[key], rtol=rtol, atol=atol) for key in weights
        )
        if not same:
            raise LabError(f"{name} does not train what {CAREFUL} trains")


def _measure(part: Part, name: str, task: Task, n_steps: int, rounds: int) -> None:
    check_same(task)  # and all are warm now
    turns = {who: partial(_seconds, trains) for who, trains in contestants(task, n_steps).items()}
    part.seconds[name] = seconds = interleave(turns, rounds)
    for other in (NOTEBOOK, CAREFUL, PLAIN):
        what = f"{name}: a step of ours / {other}"
        part.ratios.append(Ratio(what, ratio(seconds, OURS, other), AT_MOST[name].get(other)))
    part.tables.append(
        Table(
            f"{name}: microseconds a step",
            ["", "median", "fastest", "ours / it"],
            [
                [
                    who,
                    f"{median(took) / n_steps * 1e6:,.0f}",
                    f"{min(took) / n_steps * 1e6:,.0f}",
                    f"{ratio(seconds, OURS, who):.2f}",
                ]
                for who, took in seconds.items()
            ],
        )
    )


def _seconds(trains: Callable[[], Trained]) -> float:
    return trains()[0]
