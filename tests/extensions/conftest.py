"""A package of one's own with a folder of configs, outside this repository."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Parts of one's own for everything, and as little training as tells anything.
OWN = ["--config-dir=conf", "model=mine", "tokenizer=mine", "corpus=mine", "optimizer=mine"]
OWN += ["schedule=mine", "callbacks=mine", "logger=mine"]
TINY = ["data.block_size=8", "trainer.max_steps=8", "eval.every=4", "eval.iters=1"]
TINY += ["trainer.accelerator=cpu", "callbacks.sample.max_new_tokens=20"]


@pytest.fixture
def own(tmp_path) -> Path:
    """The folder with the package and its configs."""
    folder = tmp_path / "own"
    shutil.copytree(Path(__file__).parent / "own", folder)
    return folder


@pytest.fixture
def here(own, monkeypatch, lab) -> Iterator[Path]:
    """The same, with the package to be imported in this process, and `lab` working there."""
    monkeypatch.chdir(own)
    monkeypatch.syspath_prepend(own)
    yield own
    forget_package()


def forget_package() -> None:
    """Have it imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


@pytest.fixture
def command(own) -> Callable[..., str]:
    """command("train", …): in a process of its own, in that folder; what it printed."""

    def run(name: str, *words: str, status: int = 0, first_on_path: Path = own) -> str:
        done = subprocess.run(
            [sys.executable, str(ROOT / f"scripts/{name}.py"), *words],
            cwd=own,
            env={
                **os.environ,
                "PYTHONPATH": f"{first_on_path}:{own}:{ROOT / 'src'}",
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run
