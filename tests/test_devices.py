"""Tensors of two devices never meet: a device that is not there gives the CPU's numbers.

`make test-gpu` does as much on a GPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comparing import checkpoint, curves, weights

from lmlab.runs.directory import RunDirectory

HERE = Path(__file__).parent
SMALL = ["corpus=file", "corpus.path=text.txt", "data.block_size=8", "data.batch_size=4"]
SMALL += ["trainer.max_steps=12", "eval.every=6", "eval.iters=2", "checkpoint.keep=3"]
SMALL += ["callbacks.sample.max_new_tokens=8", "callbacks.histograms.every=1"]
GPT = ["model=gpt", "model.n_embd=8", "model.n_head=2", "model.n_layer=1", "model.dropout=0.1"]

MODELS = {
    "bigram": ["model=bigram", "experiment=notebook", "trainer.max_steps=12", "name=x"],
    "gpt": [*GPT, "trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=2"],
    "layer_norm": ["model=layer_norm", "eval.stride=3", "eval.protocol=full"],
    "multi_head": ["model=multi_head", "optimizer=sgd"],
    "bag_of_words": ["model=bag_of_words", "schedule=cosine"],
    "ngram": ["model=ngram", "model.order=2"],
    # Without RoPE: the device that is not there forgets to conjugate complex gradients.
    "ensemble": [
        *("model=ensemble", "model.members.network.n_embd=8", "callbacks=dynamic"),
        *("model.members.network.rope_base=null", "model.members.network.n_layer=2"),
    ],
}


def far(folder: Path, *commands: list[str]) -> list[str]:
    """What commands print on the device that is not there, all in one process."""
    done = subprocess.run(
        [sys.executable, str(HERE / "far.py"), *("\n".join(words) for words in commands)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=180,
        env={**os.environ, "HYDRA_FULL_ERROR": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\f")[: len(commands)]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_evaluates_and_writes_as_on_the_cpu(lab, text, tmp_path, name):
    words = [*SMALL, *MODELS[name]]
    _, evaluated, generated = far(
        tmp_path,
        ["train", *words, "run_dir=far", "trainer.accelerator=far"],
        ["evaluate", "run=far", "accelerator=far"],
        ["generate", "run=far", "seed=3", "max_new_tokens=12"],
    )
    status, _, err = lab("train", *words, "run_dir=cpu", "trainer.accelerator=cpu")
    assert (status, err) == (0, "")
    there, here = RunDirectory(tmp_path / "far"), RunDirectory(tmp_path / "cpu")
    # Fused attention is another kernel there, so its last digits may be others.
    attends = name in ("gpt", "ensemble")
    tolerance = {"rel": 1e-4 if attends else 0.0, "abs": 0.0}
    for left, right in zip(curves(there), curves(here), strict=True):
        assert left.keys() == right.keys()
        for key, value in right.items():
            if not key.startswith("weights_"):
                assert bool(left[key]) == bool(value)
                assert float(left[key] or 0) == pytest.approx(float(value or 0), **tolerance)
    for key, value in weights(here).items():
        torch.testing.assert_close(weights(there)[key], value, rtol=0, atol=1e-6)
    assert (there.path / "sample.txt").read_text() == (here.path / "sample.txt").read_text()
    loss = there.record["metrics"]["val/loss_full"]
    assert f"val/loss_full  {loss:.4f} nats per token" in evaluated
    assert lab("generate", "run=cpu", "seed=3", "max_new_tokens=12")[1] == generated


def test_a_teacher_goes_where_its_pupil_is(lab, text, tmp_path):
    words = [*SMALL, "model=bigram", "teacher.runs=teacher"]
    assert lab("train", *SMALL, "model=bigram", "seed=2", "run_dir=teacher")[0] == 0
    far(tmp_path, ["train", *words, "run_dir=far", "trainer.accelerator=far"])
    assert lab("train", *words, "run_dir=cpu", "trainer.accelerator=cpu")[0] == 0
    for name, value in weights(RunDirectory(tmp_path / "cpu")).items():
        torch.testing.assert_close(
            weights(RunDirectory(tmp_path / "far"))[name], value, rtol=0, atol=1e-6
        )


def test_a_run_goes_on_and_branches_on_another_device(lab, text, tmp_path):
    words = [*SMALL, *GPT]
    status, _, err = lab("train", *words, "run_dir=cut", "trainer.accelerator=cpu")
    assert (status, err) == (0, "")
    whole, run = checkpoint(RunDirectory(tmp_path / "cut")), RunDirectory(tmp_path / "cut")
    run.checkpoints()[0].unlink()
    run.update(status="interrupted")
    far(tmp_path, ["train", "run=cut", "trainer.accelerator=far"])
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(weights(run)[name], value, rtol=0, atol=1e-6)
