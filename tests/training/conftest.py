"""Small experiments, composed and checked as the command does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from lmlab import schema
from lmlab.cli import conf_dir
from lmlab.config import check
from lmlab.runs import Run
from lmlab.train import train

Compose = Callable[..., dict[str, Any]]
Experiment = Callable[..., Run]


@pytest.fixture
def composed() -> Compose:
    """composed("model=head", …): a checked config."""

    def compose_and_check(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", ["name=test", "trainer.accelerator=cpu", *overrides])
            return check(cfg, schema.Train)

    return compose_and_check


@pytest.fixture
def experiment(composed: Compose, tinyshakespeare_path: Path, tmp_path: Path) -> Experiment:
    """experiment("model=head", …): a run on tinyshakespeare, small unless told otherwise."""

    def run(*overrides: str) -> Run:
        small = [
            f"corpus.path={tinyshakespeare_path}",
            f"output_dir={tmp_path}",
            "data.batch_size=4",
            "data.block_size=8",
            "trainer.max_steps=24",
            "eval.every=12",
            "eval.iters=2",
            "trainer.log_every_n_steps=4",
            "callbacks.sample.max_new_tokens=8",
        ]
        # The full pass over val takes most of a tiny run's time: leave a small val split.
        return train(composed(*small, "data.val_fraction=0.01", *overrides))

    return run
