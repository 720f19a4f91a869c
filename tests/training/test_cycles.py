"""Cycles of the rate: the weights at their ends averaged (SWA), and kept (snapshots)."""

import math
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from comparing import assert_same_run, checkpoint, same, weights
from small import SMALL, branch, cut, train
from torch import Tensor

from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.restored import restore
from lmlab.training.optimizers.schedules import cycles, ends_of_cycles, linear

GPT = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "model.dropout=0.1"]
SWA = ["callbacks=swa", "callbacks.swa.every=6"]  # after 12, 18 and 24 steps
CYCLES = ["schedule=cycles", "schedule.n_cycles=3", "callbacks=snapshots"]  # 8, 16 and 24
TRAIL: list[dict[str, Tensor]] = []  # weights after each step


class Trail(L.Callback):
    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        TRAIL.clear()
        named = dict(module.model.named_parameters())
        trainer.optimizers[0].register_step_post_hook(
            lambda *_: TRAIL.append({n: p.detach().clone() for n, p in named.items()})
        )


WATCHED = "+callbacks.trail={_target_:test_cycles.Trail}"


def of_model(run: RunDirectory) -> dict[str, Tensor]:
    return {name.removeprefix("model."): weight for name, weight in weights(run).items()}


def test_the_rate_falls_as_often_as_it_says():
    given = {"n_cycles": 3, "first": 0.6, "top": 0.5, "warmdown": 0.5, "final": 0.1}
    rates = [cycles(step, 100, **given) for step in range(100)]
    assert [round(rates[step], 6) for step in (0, 30, 45, 60, 70, 75, 80, 95)] == [
        *(1.0, 1.0, 0.55, 0.5, 0.5, 0.275, 0.5, 0.275)
    ]
    assert cycles(0, 100, n_cycles=1, warmup_steps=9) == 0.1
    assert cycles(50, 100, n_cycles=1) == cycles(25, 100, n_cycles=2) == 0.5
    one = [cycles(step, 90, 5, 0.6, 0.2, n_cycles=1) for step in range(90)]
    assert one == [linear(step, 90, 5, 0.6, 0.2) for step in range(90)]


def test_where_cycles_end_is_seen_in_the_rates_of_any_schedule():
    assert ends_of_cycles(lambda s, n: cycles(s, n, n_cycles=3, first=0.6), 100) == [60, 80, 100]
    assert ends_of_cycles(lambda s, n: cycles(s, n, n_cycles=7), 100)[:3] == [14, 29, 43]
    assert ends_of_cycles(lambda s, n: min(s, 5), 20) == [20]  # a warm-up
    assert ends_of_cycles(lambda s, n: [3, 2, 1, 1, 2, 1, 1][s], 7) == [4, 7]
    assert ends_of_cycles(lambda s, n: 1, 1) == [1]


@pytest.mark.parametrize("words", [[], ["trainer.precision=bf16-true", "optimizer=muon"]])
def test_the_runs_weights_are_the_mean_of_those_that_it_trained(experiment, words):
    run = experiment(*GPT, *SWA, WATCHED, *words)
    assert len(TRAIL) == 24
    for name, average in of_model(run).items():
        mean = torch.stack([TRAIL[step - 1][name].float() for step in (12, 18, 24)]).mean(0)
        torch.testing.assert_close(average.float(), mean, rtol=1e-2 if words else 1e-5, atol=1e-6)
    stored = checkpoint(run)
    assert stored["swa"]["step"] == 3
    assert same(stored["trained"]["weights"], TRAIL[-1])
    assert {w.dtype for w in stored["swa"]["weights"].values()} == {torch.float32}


def test_training_goes_on_as_without_it(experiment):
    without, with_it = experiment(*GPT), experiment(*GPT, *SWA)
    assert same(of_model(without), checkpoint(with_it)["trained"]["weights"])
    left, right = without.record["metrics"], with_it.record["metrics"]
    assert left["train/loss_last"] == right["train/loss_last"]
    assert left["val/loss_full"] != right["val/loss_full"]


@pytest.mark.parametrize("what", ["swa", "snapshots"])
def test_a_run_that_was_cut_short_ends_as_if_it_never_was(experiment, tmp_path, what):
    words = [*GPT, *(SWA if what == "swa" else CYCLES), "checkpoint.every=5", "checkpoint.keep=9"]
    whole, one = (experiment(*words, f"data.steps_per_batch={k}") for k in (7, 1))
    for key in ("state_dict", "swa", "trained"):
        assert same(checkpoint(whole).get(key), checkpoint(one).get(key))
    for step in (24, 17, 5):
        shutil.copytree(whole.path, tmp_path / str(step))
        resumed = RunDirectory(tmp_path / str(step))
        cut(resumed, step)
        shutil.rmtree(resumed.path / "snapshots", ignore_errors=True)
        train({**resumed.config, "run": str(resumed.path)})
        assert_same_run(whole, resumed)
        for key in ("swa", "trained"):
            assert same(checkpoint(whole).get(key), checkpoint(resumed).get(key))
        for at, path in resumed.snapshots_by_step().items():
            mine, wholes = (restore(whole, str(p)).model for p in (path, whole.snapshot(at)))
            assert same(mine.state_dict(), wholes.state_dict())


def test_a_branch_begins_with_the_averages(experiment):
    run = experiment(*GPT, *SWA, "trainer.max_steps=12", "callbacks.swa.every=3")
    first = train({**branch(run, callbacks__swa=None, trainer__max_steps=24), "pause_at": None})
    began = torch.load(first.path / "checkpoints/step-00000012.ckpt", weights_only=True)
    assert same(began["state_dict"], weights(run))


def test_snapshots_are_the_weights_at_the_ends_of_cycles(experiment):
    run = experiment(*GPT, *CYCLES, WATCHED, "data.steps_per_batch=5")
    assert [*run.snapshots_by_step()] == [8, 16, 24]
    for step, path in run.snapshots_by_step().items():
        trained = restore(run, str(path))
        assert trained.step == step
        assert same(dict(trained.model.named_parameters()), TRAIL[step - 1])


def test_snapshots_answer_together_and_teach(experiment, lab, text):
    words = [*SMALL, "corpus=file", f"corpus.path={text}", "trainer.max_steps=20", "model=head"]
    assert lab("train", *words, *CYCLES, "optimizer.lr=0.1", "run_dir=run")[0] == 0
    run = RunDirectory(Path("run"))
    of_each = []
    for path in run.snapshots_by_step().values():
        status, out, _ = lab("evaluate", "run=run", f"checkpoint={path}", "accelerator=cpu")
        assert status == 0
        of_each.append(float(out.split("val/loss_full")[1].split()[0]))
    status, out, err = lab("evaluate", "run=run", "ensemble=snapshots", "accelerator=cpu")
    assert (status, err) == (0, "")
    assert "run (its snapshots of steps 7, 13, 20, their probabilities averaged)" in out
    assert float(out.split("val/loss_full")[1].split()[0]) < sum(of_each) / 3
    status, out, err = lab("evaluate", "run=run", "ensemble=snapshots", "weights=[1,2]")
    assert (status, err) == (2, "error: weights=[1.0, 2.0]: give 3, one for each snapshot\n")

    assert lab("train", *words, "teacher.runs=run@snapshots", "run_dir=pupil")[0] == 0
    pupil = RunDirectory(Path("pupil"))
    assert [one["step"] for one in pupil.config["teacher"]["runs"]] == [7, 13, 20]
    status, _, err = lab("evaluate", "run=pupil", "ensemble=snapshots")
    assert (status, err.count("\n")) == (2, 1)
    assert "ensemble=snapshots: pupil has no snapshots; train with schedule=cycles" in err
    with pytest.raises(LabError, match="has no snapshots"):
        train({**pupil.config, "teacher": {"runs": "pupil@snapshots", "share": 0.5}})
    assert math.isfinite(pupil.record["metrics"]["val/loss_full"])
