"""Small runs, and TensorBoard on them as `make board` starts it."""

import json
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from lmlab.cli import conf_dir
from lmlab.config import schema
from lmlab.config.check import check
from lmlab.config.words.hydra_inside import version_base
from lmlab.core.train import train
from lmlab.runs.directory import RunDirectory

SMALL = (
    *("trainer.accelerator=cpu", "data.batch_size=4", "data.block_size=8", "eval.iters=2"),
    *("trainer.max_steps=24", "eval.every=8", "trainer.log_every_n_steps=4"),
    *("callbacks.sample.max_new_tokens=60", "data.steps_per_batch=4"),
)


class Own(nn.Module):
    """Somebody's own model: nothing in it that the lab could draw."""

    def __init__(self, vocab_size: int, block_size: int):
        super().__init__()
        self.block_size = block_size
        self.layers = nn.Sequential(nn.Embedding(vocab_size, 8), nn.Linear(8, vocab_size))

    def forward(self, idx: Tensor) -> Tensor:
        return self.layers(idx)


class Breaks(L.Callback):
    """Whatever may go wrong in the middle of a run."""

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.global_step == 16:
            raise RuntimeError("a disk is gone")


@dataclass
class Sweep:
    """The runs, by the name that TensorBoard has for them."""

    folder: Path
    runs: dict[str, RunDirectory]


def begin(folder: Path, *overrides: str) -> RunDirectory:
    with initialize_config_dir(str(conf_dir()), **version_base()):
        cfg = compose("train", [*SMALL, f"name={folder.name}", f"run_dir={folder}", *overrides])
    return train(check(cfg, schema.Train))


class Board:
    """TensorBoard as `make board` starts it, with more flags."""

    def __init__(self, sweep: Sweep, *flags: str):
        self.sweep = sweep
        script = Path(__file__).parents[1] / "scripts" / "board.py"
        self.command = [sys.executable, str(script), str(sweep.folder), *flags]

    def __enter__(self) -> str:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdout=pipe, stderr=pipe, text=True)
        assert self.process.stdout
        said = self.process.stdout.readline()
        if said.startswith("the best"):  # of --top
            said = self.process.stdout.readline()
        if not said:
            raise AssertionError(self.process.communicate(timeout=20)[1])
        assert said.startswith("open http://localhost:"), said
        link = said.split()[1]
        deadline = time.monotonic() + 60
        while len(get(link, "runs")) < len(self.sweep.runs):
            assert time.monotonic() < deadline, "TensorBoard does not find the runs"
            time.sleep(0.1)
        return link

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(20) == 0


def get(link: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> Any:
    """What TensorBoard's own page would be given: JSON, or bytes where it is no JSON."""
    page = urllib.parse.urlsplit(link)
    url = f"{page.scheme}://{page.netloc}/data/{path}?{urllib.parse.urlencode(query)}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content = answer.read()
        return json.loads(content) if "json" in answer.headers["Content-Type"] else content
