"""Models that do what one's own may do: raise, call sys.exit, or take the process with them; and
a callback that is told to stop when it suits worst."""

import os
import shutil
import signal
import sys
from pathlib import Path

import lightning as L

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
        if self.how == "exit":
            sys.exit(3)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how.startswith("kill-once="):  # =a file that is made
            path = Path(self.how.partition("=")[2])
            if not path.exists():
                path.touch()
                os.kill(os.getpid(), signal.SIGKILL)


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
