"""Models that do what one's own may do: raise, call sys.exit, or take the process with them; and
a callback that is told to stop when it suits worst."""

import json
import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger

from lmlab.models.bigram import Bigram


class Misbehaving(Bigram):
    """A bigram that goes wrong in its `after`-th forward pass while training."""

    def __init__(self, vocab_size: int, block_size: int, how: str = "no", after: int = 3):
        super().__init__(vocab_size, block_size)
        self.how, self.left = how, after

    def forward(self, idx):
        if self.training:
            self.left -= 1
            if self.left == 0:
                self._go_wrong()
        return super().forward(idx)

    def _go_wrong(self):
        if self.how == "raise":
            raise ValueError("this model always raises")
        if self.how == "loud":
            warnings.warn("a warning of a model", stacklevel=1)
            print("printed by a model")
        if self.how == "exit":
            sys.exit(3)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how.startswith("kill-once="):  # =a file that is made
            path = Path(self.how.partition("=")[2])
            if not path.exists():
                path.touch()
                os.kill(os.getpid(), signal.SIGKILL)


class Doomed(Bigram):
    """A bigram whose logits become NaN after some forward passes of training, with every seed or
    with some: its first weights decide."""

    def __init__(self, vocab_size: int, block_size: int, after: int = 3, always: bool = False):
        super().__init__(vocab_size, block_size)
        self.is_doomed = always or bool(self.table.weight[0, 0] > 0)
        self.left = after

    def forward(self, idx):
        logits = super().forward(idx)
        self.left -= self.training
        return logits * float("nan") if self.is_doomed and self.left < 0 else logits


class SigtermInEvaluation(L.Callback):
    """SIGTERM in the middle of the evaluation at a step, once."""

    def __init__(self, step: int, done: str):
        self.step, self.done = step, Path(done)  # a file that is made

    def on_validation_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step and not self.done.exists():
            self.done.touch()
            os.kill(os.getpid(), signal.SIGTERM)


class Away(L.Callback):
    """Moves or deletes the run directory in the evaluation at a step."""

    def __init__(self, step: int, how: str):
        self.step, self.how = step, how

    def on_validation_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        path = Path(trainer.default_root_dir)
        if trainer.global_step == self.step and path.exists():
            path.rename("moved") if self.how == "move" else shutil.rmtree(path)


class At(L.Callback):
    """At the end of a step, once: sends this process a signal, or raises if there is none."""

    def __init__(self, step: int, done: str, signum: int | None = None):
        self.step, self.done, self.signum = step, Path(done), signum  # a file that is made

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step != self.step or self.done.exists():
            return
        self.done.touch()
        if self.signum is None:
            raise RuntimeError("out of luck")
        if self.signum == signal.SIGKILL:
            time.sleep(1.5)  # W&B writes to disk once a second
        os.kill(os.getpid(), self.signum)


class Unreachable(Logger):
    """A logger whose constructor raises."""

    name = version = "unreachable"

    def __init__(self, folder: Path):
        raise ConnectionError("nobody there\nand more lines")

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


class Shelf(Unreachable):
    """Somebody's tracker: a file for each of its runs, which it numbers itself."""

    def __init__(self, folder: Path, experiment_key: str | None = None):
        if experiment_key is None:
            experiment_key = f"shelf-{len(list(folder.glob('shelf-*')))}"
        self.version = experiment_key
        self.file = folder / experiment_key

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.file.open("a") as file:
            file.write(f"{step} {sorted(metrics)}\n")

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(f"config {params['model']['_target_']}\n")


class Device(Bigram):
    """A bigram that notes in a file which GPU its process was given, and from when to when."""

    def __init__(self, vocab_size: int, block_size: int):
        super().__init__(vocab_size, block_size)
        self.began = time.time()

    def forward(self, idx):
        if not idx.is_meta:  # not where its operations are only counted
            now = {"device": os.environ["CUDA_VISIBLE_DEVICES"], "began": self.began}
            path = Path(f"device-{os.getpid()}-{self.began}.json")
            path.write_text(json.dumps({**now, "ended": time.time()}))
        return super().forward(idx)
