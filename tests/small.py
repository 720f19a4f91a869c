"""Runs that take a second, those that were cut short, and those that go on from them."""

import json
from pathlib import Path
from typing import Any

from lmlab.config.check import check_plain
from lmlab.config.schema import Train
from lmlab.runs.directory import RunDirectory
from lmlab.runs.parents import resolve

ROOT = Path(__file__).parents[1]  # of the checkout

TINY = [  # of tinyshakespeare: a run of 24 steps and two evaluations
    # The full pass over val takes most of a tiny run's time: leave a small val split.
    "data.val_fraction=0.01",
    "data.batch_size=4",
    "data.block_size=8",
    "trainer.max_steps=24",
    "eval.every=12",
    "eval.iters=2",
    "trainer.log_every_n_steps=4",
    "callbacks.sample.max_new_tokens=8",
]

SMALL = [
    "model=bigram",
    "data.block_size=8",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "eval.iters=1",
    "callbacks.sample.max_new_tokens=5",
]


# A bigram on a text of one sentence, named fox.
FOX = [*SMALL, "eval.every=1", "corpus=file", "corpus.path=text.txt", "name=fox"]


def cut(run: RunDirectory, step: int) -> None:
    """Make a finished run one that was killed after its checkpoint of `step`."""
    for path in run.checkpoints():
        if path > run.step_checkpoint(step):
            path.unlink()
    run.update(status="running", step=step)


def branch(run: RunDirectory, which: str = "", /, **more: Any) -> dict[str, Any]:
    """The config of a run that begins from `run`; `more` has "__" for a dot."""
    config = json.loads(json.dumps(run.config))
    for key, value in more.items():
        *nodes, last = key.split("__")
        node = config
        for name in nodes:
            node = node[name]
        node[last] = value
    return {**config, "from": f"{run.path}{which}", "run_dir": None}


def checked(config: Any) -> Train:
    """A config in plain containers, such as a run's, as training takes it."""
    return resolve(config if isinstance(config, Train) else check_plain(config, Train))


def train(config: Any) -> RunDirectory:
    """Train a config, checked or in plain containers."""
    from lmlab.core.train import train  # torch takes seconds

    return train(checked(config))
