"""A run that trains nothing says so; one that trains late, or little, goes on."""

import pytest
import torch
from small import cut, train
from torch import nn

from lmlab.errors import LabError
from lmlab.runs.checkpoint import read_checkpoint
from lmlab.runs.directory import RunDirectory
from lmlab.training.first_steps import ENOUGH, FirstSteps


def one_weight(value: float, dtype: torch.dtype = torch.float32) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.constant_(model.weight, value)
    return model


def test_it_looks_until_something_changes() -> None:
    model = one_weight(1.0)
    steps = FirstSteps(model)
    assert not any(steps.changed(0.1, is_last=False) for _ in range(ENOUGH - 1))
    with torch.no_grad():
        model.weight += 1e-6
    assert steps.changed(0.1, is_last=False)


def test_steps_at_a_rate_of_0_do_not_count() -> None:
    steps = FirstSteps(one_weight(1.0))
    assert not any(steps.changed(0.0, is_last=False) for _ in range(3 * ENOUGH))
    assert not steps.changed(0.0, is_last=True)


@pytest.mark.parametrize(
    ("dtype", "gradient", "said"),
    [
        (torch.float32, 0.5, "rounded away in float32: try a larger optimizer.lr"),
        (torch.bfloat16, 0.5, "rounded away in bfloat16: try a larger optimizer.lr, or trainer.pr"),
        (torch.float64, 0.0, "their gradients are 0"),
        (torch.float64, None, "their gradients are 0"),
    ],
)
def test_what_it_says(dtype: torch.dtype, gradient: float | None, said: str) -> None:
    model = one_weight(1.0, dtype)
    if gradient is not None:
        model.weight.grad = torch.full_like(model.weight, gradient)
    steps = FirstSteps(model)
    for _ in range(ENOUGH - 1):
        assert not steps.changed(0.1, is_last=False)
    with pytest.raises(LabError, match=said) as error:
        steps.changed(0.1, is_last=False)
    assert "none of the model's 1 weights has changed in 100 steps" in str(error.value)


def test_frozen_weights_may_stay() -> None:
    model = nn.Sequential(one_weight(1.0), one_weight(1.0))
    model[0].requires_grad_(False)
    steps = FirstSteps(model)
    with torch.no_grad():
        model[0].weight += 1
    assert not steps.changed(0.1, is_last=False)
    with torch.no_grad():
        model[1].weight += 1
    assert steps.changed(0.1, is_last=False)


NOTHING = ["model=bigram", "optimizer.lr=1e-12"]


@pytest.mark.parametrize("k", [1, 7, 10])
def test_a_run_that_trains_nothing_fails(experiment, tmp_path, k) -> None:
    with pytest.raises(LabError, match=r"nothing is trained.* in 24 steps .*up to 1e-12"):
        experiment(*NOTHING, f"data.steps_per_batch={k}")


def test_it_fails_in_its_first_steps(experiment) -> None:
    with pytest.raises(LabError, match=r"nothing is trained.* in 100 steps"):
        experiment(*NOTHING, "trainer.max_steps=10000", "eval.every=1000")


def test_a_warm_up_and_projections_that_begin_at_0_are_no_fault(experiment) -> None:
    words = ["schedule=linear", "schedule.warmup_steps=100000", "optimizer.lr=0.01"]
    assert experiment("model=bigram", *words).record["status"] == "done"
    words = ["experiment=modern/zero_projections", "model.n_embd=16", "model.n_layer=1"]
    assert experiment(*words, "trainer.max_steps=1").record["status"] == "done"


def test_a_model_that_takes_no_steps_is_no_fault(experiment) -> None:
    assert experiment("model=ngram").record["status"] == "done"


def test_a_run_that_goes_on_is_not_judged_by_its_last_steps(experiment) -> None:
    """Where the schedule ends near 0, in bfloat16, these change nothing."""
    words = ["model=bigram", "trainer.precision=bf16-true", "schedule=linear"]
    words += ["schedule.warmup_steps=0", "schedule.warmdown=1.0", "checkpoint.every=23"]
    run = experiment(*words, "eval.every=24", "optimizer.lr=1e-3", "checkpoint.keep=9")
    assert read_checkpoint(run.step_checkpoint(23))["trains"]
    cut(run, 23)
    assert train({**run.config, "run": str(run.path)}).record["status"] == "done"


def test_a_run_that_was_cut_short_before_it_was_judged_is_watched_on(experiment, tmp_path) -> None:
    words = [*NOTHING, "checkpoint.every=10", "trainer.max_steps=200", "eval.every=200"]
    with pytest.raises(LabError, match="nothing is trained"):
        experiment(*words, f"run_dir={tmp_path / 'run'}")
    run = RunDirectory(tmp_path / "run")
    assert run.record["status"] == "failed"
    assert not read_checkpoint(run.checkpoints()[0])["trains"]
    with pytest.raises(LabError, match=r"nothing is trained.* in 100 steps"):
        train({**run.config, "run": str(run.path), "run_dir": None})
