"""Tensors of two devices never meet: a device that is not there gives the CPU's numbers.

`make test-gpu` does as much on a GPU.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from comparing import curves, weights
from forked import Forked
from small import ROOT, cut

import lmlab
from lmlab.runs.directory import RunDirectory

SMALL = ["corpus=file", "corpus.path=text.txt", "data.block_size=8", "data.batch_size=4"]
SMALL += ["trainer.max_steps=12", "eval.every=6", "eval.iters=2", "checkpoint.keep=3"]
SMALL += ["callbacks.sample.max_new_tokens=8", "callbacks.histograms.every=1"]
GPT = ["model=gpt", "model.n_embd=8", "model.n_head=2", "model.n_layer=1", "model.dropout=0.1"]

MODELS = {
    "bigram": ["model=bigram", "experiment=notebook", "trainer.max_steps=12", "name=x"],
    "gpt": [*GPT, "trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=2"],
    "layer_norm": ["model=layer_norm", "optimizer=sgd", "eval.stride=7", "eval.protocol=full"],
    "bag_of_words": ["model=bag_of_words", "schedule=cosine"],
    "ngram": ["model=ngram", "model.order=2"],
    # Without RoPE: the device that is not there forgets to conjugate complex gradients.
    "ensemble": [
        *("model=ensemble", "model.members.network.n_embd=8", "callbacks=dynamic"),
        *("model.members.network.rope_base=null", "model.members.network.n_layer=2"),
    ],
}


TAUGHT = ["model=bigram", "teacher.runs=teacher"]
BY_NAME = {**MODELS, "taught": TAUGHT, "cut": GPT}


def trained(*words: str) -> RunDirectory:
    """A run on the CPU, in the current folder."""
    return RunDirectory(lmlab.train(*SMALL, *words, **{"trainer.accelerator": "cpu"}).path)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], str]]:
    """What each command printed about each run on the device that is not there, all in one process.

    The current folder is the one that holds the text and the runs. One was begun on the CPU.
    """
    folder = tmp_path_factory.mktemp("there")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    commands = {}
    for name, words in BY_NAME.items():
        begins = [f"run={name}"] if name == "cut" else [*SMALL, *words, f"run_dir={name}"]
        commands["train", name] = [*begins, "trainer.accelerator=absent"]
    for name in MODELS:
        commands["evaluate", name] = [f"run={name}", "accelerator=absent"]
        commands["generate", name] = [f"run={name}", "seed=3", "max_new_tokens=12"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trained("model=bigram", "seed=2", "run_dir=teacher")
        cut(trained(*GPT, "run_dir=cut"), 6)
        lines = ["\n".join([command, *words]) for (command, _), words in commands.items()]
        script = ROOT / "tests/absent_device.py"
        done = Forked(lines, env={"HYDRA_FULL_ERROR": "1"}, script=script)
        out, err = done.communicate(timeout=300)
        assert done.returncode == 0, err
        yield dict(zip(commands, out.split("\f"), strict=False))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_evaluates_and_writes_as_on_the_cpu(printed, name):
    there, here = RunDirectory(Path(name)), trained(*MODELS[name], f"run_dir={name}-on-cpu")
    # Fused attention is another kernel there, so its last digits may be others.
    attends = name in ("gpt", "ensemble")
    tolerance = {"rel": 1e-4 if attends else 0.0, "abs": 0.0}
    for left, right in zip(curves(there), curves(here), strict=True):
        assert left.keys() == right.keys()
        for key, value in right.items():
            if not key.startswith("weights_"):
                assert bool(left[key]) == bool(value)
                assert float(left[key] or 0) == pytest.approx(float(value or 0), **tolerance)
    assert_same_weights(there, here)
    assert (there.path / "sample.txt").read_text() == (here.path / "sample.txt").read_text()
    loss = there.record["metrics"]["val/loss_full"]
    assert f"val/loss_full  {loss:.4f} nats per token" in printed["evaluate", name]
    text = lmlab.open(here.path).generate(seed=3, max_new_tokens=12)
    assert f"{text}\n" == printed["generate", name]


def assert_same_weights(there: RunDirectory, here: RunDirectory) -> None:
    for name, value in weights(here).items():
        torch.testing.assert_close(weights(there)[name], value, rtol=0, atol=1e-6)


def test_a_teacher_goes_where_its_pupil_is(printed):
    here = trained(*TAUGHT, "run_dir=taught-on-cpu")
    assert_same_weights(RunDirectory(Path("taught")), here)


def test_a_run_goes_on_on_another_device(printed):
    assert_same_weights(RunDirectory(Path("cut")), trained(*GPT, "run_dir=whole"))
