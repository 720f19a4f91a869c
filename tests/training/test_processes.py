"""Two processes that share the work, as `trainer=ddp` starts them."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from comparing import checkpoint, curves, weights

from lmlab.errors import LabError
from lmlab.runs import Run

GPT = ["name=test", "model=gpt", "model.n_embd=16", "model.n_layer=1", "trainer.accelerator=cpu"]
GPT += ["data.block_size=8", "data.val_fraction=0.01", "data.steps_per_batch=5", "eval.iters=2"]
GPT += ["eval.every=12", "trainer.log_every_n_steps=4", "trainer.gradient_clip_val=1.0"]
GPT += ["trainer.max_steps=24", "callbacks.sample.max_new_tokens=8"]


def run(folder: Path, *words: str) -> Run:
    """The command, with everything that it starts."""
    script = Path(__file__).parents[2] / "scripts/train.py"
    command = [sys.executable, str(script), *words, f"run_dir={folder}"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        assert child.wait(120) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    return Run(folder)


def test_two_processes_learn_what_one_does_with_a_double_batch(tinyshakespeare_path, tmp_path):
    words = [f"corpus.path={tinyshakespeare_path}", *GPT]
    one = run(tmp_path / "one", *words, "data.batch_size=8")
    two = run(tmp_path / "two", *words, "data.batch_size=4", "trainer=ddp")
    # Sums of floats in another order: nothing else differs, neither in a curve nor in a weight.
    for left, right in zip(curves(one), curves(two), strict=True):
        assert left.keys() == right.keys()
        for key in left:
            assert left[key] == right[key] or float(left[key]) == pytest.approx(
                float(right[key]), abs=2e-5
            )
    for name, value in weights(one).items():
        assert (value - weights(two)[name]).abs().max() < 2e-4, name


def test_each_process_drops_something_else(tinyshakespeare_path, tmp_path):
    words = [f"corpus.path={tinyshakespeare_path}", *GPT, "model.dropout=0.2", "trainer=ddp"]
    two = run(tmp_path / "two", *words)
    first, second = (states["cpu"] for states in checkpoint(two)["random"])
    assert not first.equal(second)


@pytest.mark.parametrize(
    ("setting", "said"),
    [("trainer.strategy=fsdp", "requires a GPU"), ("trainer.precision=7-true", "7-true")],
)
def test_what_the_trainer_refuses_is_one_line(experiment, setting, said):
    with pytest.raises(LabError, match=f"^trainer: .*{said}"):
        experiment("model=bigram", setting)
