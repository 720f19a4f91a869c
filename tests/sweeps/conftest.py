"""What the tests of sweeps share: the command in a process of its own, and what it left."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import Forked

ROOT = Path(__file__).parents[2]


def small_sweep(text: Path) -> list[str]:
    """The words of a multirun of small runs: without those that tell what is swept."""
    return [
        *("-m", "corpus=file", f"corpus.path={text}", "trainer.accelerator=cpu"),
        *("data.batch_size=4", "data.block_size=8", "data.steps_per_batch=2"),
        *("eval.every=4", "eval.iters=2", "trainer.max_steps=12"),
        "callbacks.sample.max_new_tokens=8",
    ]


@pytest.fixture
def sweep(tmp_path, text) -> Callable[..., Forked]:
    """sweep("model=bigram,head"): starts a multirun of small runs, as the head of a group."""

    def start(*words: str) -> Forked:
        env = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
        return Forked([*small_sweep(text), *words], tmp_path, env)

    return start


@pytest.fixture
def sweep_here(lab, text) -> Callable[..., str]:
    """sweep_here("seed=1,2", status=2): the same in this process; what it printed."""

    def run(*words: str, status: int = 0) -> str:
        ended_with, out, err = lab("train", *small_sweep(text), *words)
        assert ended_with == status, out + err
        return out + err

    return run


def ended(process: Forked, status: int | None = 0) -> str:
    """What a process printed, once it has ended with `status`."""
    said = "".join(process.communicate(timeout=240))
    assert status is None or process.returncode == status, said
    return said


def records(sweep_dir: Path) -> dict[str, dict]:
    """By run directory: what each run.json says."""
    found = sorted(sweep_dir.glob("*/run.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in found}
