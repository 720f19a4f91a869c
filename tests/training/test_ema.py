"""The average of the weights: that it is one, of every step, and what can be done with it."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from comparing import assert_same_run, checkpoint, curves, same, tensorboard, weights
from small import SMALL, cut, train
from torch import Tensor

from lmlab.errors import LabError
from lmlab.runs.checkpoint import write_checkpoint
from lmlab.training.beginning.restored import restore
from lmlab.training.ema import EMA

GPT = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "model.dropout=0.1"]
ON = "callbacks=ema"
SHORT = "callbacks.ema.decay=0.7"
TRAIL: list[dict[str, Tensor]] = []  # weights before the first step and after every one


class Trail(L.Callback):
    """Sees every step, since it is not the lab's: its batches hold one."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        TRAIL.append(copied(module.model))

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        TRAIL.append(copied(module.model))


def copied(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().to(torch.float64, copy=True) for name, p in model.named_parameters()}


def averaged(run: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = checkpoint(run)["ema"]["weights"]
    return found


@pytest.mark.parametrize(("warmup", "optimizer"), [(True, "adamw"), (False, "muon")])
def test_it_is_the_average_written_by_hand(experiment, warmup, optimizer):
    TRAIL.clear()
    words = [ON, SHORT, f"callbacks.ema.warmup={str(warmup).lower()}", f"optimizer={optimizer}"]
    run = experiment(*GPT, *words, "+callbacks.trail={_target_:test_ema.Trail}")
    expected, *after = TRAIL
    assert len(after) == 24
    for t, values in enumerate(after, 1):
        decay = min(0.7, (1 + t) / (10 + t)) if warmup else 0.7
        expected = {n: decay * expected[n] + (1 - decay) * values[n] for n in values}
    assert checkpoint(run)["ema"]["step"] == 24
    for name, values in averaged(run).items():
        torch.testing.assert_close(values.double(), expected[name], rtol=1e-5, atol=1e-7)
        assert (values - after[-1][name]).abs().max() > 1e-5


def test_how_many_steps_are_taken_at_once_changes_nothing(experiment):
    words = [*GPT, ON, SHORT, "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5"]
    one, eight = (experiment(*words, f"data.steps_per_batch={k}") for k in (1, 8))
    assert same(checkpoint(one)["ema"], checkpoint(eight)["ema"])
    assert curves(one) == curves(eight)


@pytest.mark.parametrize("streams", ["separate", pytest.param("global", marks=pytest.mark.slow)])
def test_training_goes_on_as_without_it(experiment, streams):
    words = [*GPT, f"streams={streams}", "model.dropout=0.1"]
    without, with_it = experiment(*words), experiment(*words, ON)
    assert same(weights(without), weights(with_it))
    assert "ema" not in checkpoint(without)
    left, right = without.record["metrics"], with_it.record["metrics"]
    assert right.keys() - left.keys() == {"val/loss_ema", "val/loss_full_ema"}
    assert left == {key: right[key] for key in left}
    assert without.sample == with_it.sample


@pytest.mark.parametrize(
    "words",
    [
        [*GPT, "data.steps_per_batch=4"],
        pytest.param(["model=head", "trainer.precision=bf16-true"], marks=pytest.mark.slow),
        pytest.param([*GPT, "optimizer=muon", "streams=global"], marks=pytest.mark.slow),
        pytest.param([*GPT, "trainer.precision=64-true"], marks=pytest.mark.slow),
        pytest.param([*GPT, "trainer.precision=64-true", "optimizer=muon"], marks=pytest.mark.slow),
    ],
    ids=["adamw", "bf16", "muon", "64", "64-muon"],
)
def test_a_run_that_was_cut_short_ends_as_if_it_never_was(experiment, tmp_path, words):
    words = [*words, ON, SHORT, "checkpoint.every=5", "checkpoint.keep=9"]
    whole = experiment(*words, f"output_dir={tmp_path / 'whole'}")
    resumed = experiment(*words, f"output_dir={tmp_path / 'cut'}")
    for step in (24, min(int(path.stem[5:]) for path in resumed.checkpoints())):
        cut(resumed, step)
        train({**resumed.config, "run": str(resumed.path)})
        assert_same_run(whole, resumed)


def test_a_run_made_longer_equals_one_that_was_as_long_from_the_start(experiment):
    words = [*GPT, ON, SHORT, "schedule=constant"]
    whole, part = experiment(*words), experiment(*words, "trainer.max_steps=12")
    config = {**whole.config, "from": str(part.path), "run_dir": None}
    assert same(checkpoint(whole)["ema"], checkpoint(train(config))["ema"])


def test_it_may_begin_in_the_middle(experiment):
    part = experiment(*GPT, "trainer.max_steps=12")
    run = experiment(f"from={part.path}", *GPT, ON)
    assert checkpoint(run)["ema"]["step"] == 12


def test_in_bfloat16_it_is_kept_in_float32(experiment):
    run = experiment("model=head", ON, "trainer.precision=bf16-true")
    assert {values.dtype for values in weights(run).values()} == {torch.bfloat16}
    assert {values.dtype for values in averaged(run).values()} == {torch.float32}


@pytest.mark.parametrize(
    "precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)]
)
def test_it_is_evaluated_and_sampled_beside_the_weights(experiment, precision):
    run = experiment(*GPT, ON, f"trainer.precision={precision}")
    metrics, shown = run.record["metrics"], tensorboard(run)
    rows = {int(row["step"]): row for row in curves(run)}
    for name in ("val/loss_ema", "val/loss_full_ema"):
        assert float(rows[24][name]) == metrics[name]
        assert shown[name][-1] == (24, pytest.approx(metrics[name]))
        assert metrics[name] != metrics[name.removesuffix("_ema")]
    assert [step for step, _ in shown["val/loss_ema"]] == [12, 24]
    assert [step for step, _ in shown["sample_ema"]] == [12, 24]
    # After so few steps it still is nearer to the initial weights.
    assert metrics["val/loss"] < metrics["val/loss_ema"] < 4.5


def test_a_model_has_its_own_weights_again_whatever_happens(experiment):
    model = restore(experiment("model=bigram", ON), "last").model
    ema, (weight,) = EMA(), model.parameters()
    ema.average = {"table.weight": torch.zeros_like(weight)}
    before, state = weight.detach().clone(), torch.get_rng_state()

    def evaluate() -> None:
        with ema.applied(model):
            assert not weight.any()
            torch.rand(3)
            raise ValueError("anything")

    with pytest.raises(ValueError, match="anything"):
        evaluate()
    assert torch.equal(weight, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_its_checkpoint_is_evaluated_and_generates(lab, text):
    words = [*SMALL, "corpus=file", f"corpus.path={text}", "trainer.max_steps=20", ON, SHORT]
    assert lab("train", *words, "run_dir=run", "model=head")[0] == 0
    status, out, err = lab("evaluate", "run=run", "checkpoint=ema", "accelerator=cpu")
    assert (status, err) == (0, "")
    metrics = json.loads(Path("run/run.json").read_text())["metrics"]
    assert "step-00000020.ckpt (step 20, averaged weights)" in out
    assert f"val/loss_full  {metrics['val/loss_full_ema']:.4f}" in out
    texts = [
        lab("generate", "run=run", f"checkpoint={which}", "max_new_tokens=60")
        for which in ("ema", "ema", "last")
    ]
    assert [status for status, *_ in texts] == [0, 0, 0]
    assert texts[0] == texts[1] != texts[2]


def test_a_run_without_one_says_so_in_one_line(lab, text):
    words = [*SMALL, "corpus=file", f"corpus.path={text}", "run_dir=run"]
    assert lab("train", *words)[0] == 0
    for command in ("evaluate", "generate"):
        status, out, err = lab(command, "run=run", "checkpoint=ema")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "step-00000002.ckpt holds no averaged weights; train with callbacks=ema" in err
    for path in Path("run/checkpoints").glob("*.ckpt"):
        path.unlink()
    assert "checkpoint=ema: no such checkpoint" in lab("evaluate", "run=run", "checkpoint=ema")[2]


def test_one_that_does_not_fit_is_refused(experiment):
    run = experiment("model=bigram", ON)
    contents = checkpoint(run)
    contents["ema"]["weights"]["table.weight"] = torch.zeros(2, 2)
    write_checkpoint(contents, run.checkpoints()[0])
    with pytest.raises(LabError, match=r"of its averaged weights, its table.weight has the shape"):
        restore(run, "ema")
    assert restore(run, "last").step == 24


def test_a_model_that_takes_no_steps_has_none(experiment):
    run = experiment("model=ngram", ON)
    assert "val/loss_full_ema" not in run.record["metrics"]
    assert "ema" not in checkpoint(run)
