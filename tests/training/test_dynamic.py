"""Dynamic evaluation: each token is predicted once, and learned from afterwards."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_same_run, checkpoint, curves, same, tensorboard, weights
from small import checked, cut, train
from torch import nn

from lmlab.data.tokens import text_of
from lmlab.errors import LabError
from lmlab.handles import Run
from lmlab.training.beginning.restored import restore

GPT = ["model=gpt", "model.n_embd=16", "model.n_layer=1"]
ON = ["callbacks=dynamic", "callbacks.dynamic.lr=0.3", "data.val_fraction=0.001"]
METRIC = "val/loss_dynamic"


def by_hand(run: Any, lr: float, stride: int, clip_norm: float = 1.0) -> float:
    """From the definition, token by token of the text."""
    model: nn.Module = restore(run, "last").model.eval()
    ids, data = text_of(checked(run.config)).ids, run.config["data"]
    val = ids.whole().long()[int((1 - data["val_fraction"]) * len(ids)) :]
    block_size, total, done = data["block_size"], 0.0, 0
    while done < len(val) - 1:
        end = min(done + (block_size if done == 0 else stride), len(val) - 1)
        start = max(0, end - block_size)
        logits = model(val[start:end][None])[0, done - end :]
        loss = F.cross_entropy(logits.double(), val[done + 1 : end + 1])
        total += loss.item() * (end - done)
        gradients = torch.autograd.grad(loss, [*model.parameters()])
        norm = torch.stack([g.norm() for g in gradients]).norm()
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p -= lr * min(1.0, clip_norm / (norm.item() + 1e-6)) * g
        done = end
    return total / (len(val) - 1)


@pytest.mark.parametrize("stride", [None, 3])
def test_it_is_what_the_definition_says(experiment, stride):
    more = [] if stride is None else [f"callbacks.dynamic.stride={stride}"]
    run = experiment(*GPT, *ON, *more, "callbacks.dynamic.clip_norm=0.4")
    expected = by_hand(run, lr=0.3, stride=stride or 8, clip_norm=0.4)
    assert run.record["metrics"][METRIC] == pytest.approx(expected, rel=1e-4)
    assert run.record["metrics"][METRIC] < run.record["metrics"]["val/loss_full"]


def test_a_model_that_learns_next_to_nothing_has_the_static_loss(experiment):
    words = [*GPT, *ON, "callbacks.dynamic.lr=1e-9", "trainer.precision=32-true"]
    metrics = experiment(*words).record["metrics"]
    assert metrics[METRIC] == pytest.approx(metrics["val/loss_full"], rel=1e-6)


def test_the_run_itself_is_as_without_it(experiment):
    without, with_it = experiment(*GPT, ON[-1]), experiment(*GPT, *ON)
    assert same(weights(without), weights(with_it))
    assert same(checkpoint(without)["random"], checkpoint(with_it)["random"])
    left, right = without.record["metrics"], with_it.record["metrics"]
    assert right.keys() - left.keys() == {METRIC}
    assert left == {key: right[key] for key in left}
    assert without.sample == with_it.sample
    assert METRIC in tensorboard(with_it)
    assert curves(with_it)[-1][METRIC] == str(right[METRIC])


def test_evaluate_says_the_same_of_any_run(experiment):
    run = experiment(*GPT, *ON)
    trained = Run(run.path)
    assert trained.evaluate(dynamic_lr=0.3)[METRIC] == run.record["metrics"][METRIC]
    assert METRIC not in trained.evaluate()
    found = trained.evaluate(stride=3, dynamic_lr=0.3)
    assert found[METRIC] == pytest.approx(by_hand(run, lr=0.3, stride=3), rel=1e-4)


def test_a_run_that_was_cut_short_ends_alike(experiment):
    whole, cut_short = experiment(*GPT, *ON), experiment(*GPT, *ON)
    cut(cut_short, 12)
    train({**cut_short.config, "run": str(cut_short.path)})
    assert_same_run(whole, cut_short)


def test_a_longer_run_forgets_the_end_that_was_none(experiment):
    run = experiment(*GPT, *ON)
    longer = {**run.config, "from": str(run.path)}
    longer["trainer"] = {**longer["trainer"], "max_steps": 36}
    branch = train(longer)
    assert [row[METRIC] for row in curves(branch) if row[METRIC]] == [
        str(branch.record["metrics"][METRIC])
    ]
    assert json.loads((branch.path / "run.json").read_text())["step"] == 36


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["callbacks.dynamic.stride=9"], "callbacks.dynamic.stride=9 skips tokens: at most 8"),
        (["model=ngram", "trainer.max_steps=0"], "NGram has nothing that learns"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_at_the_start(experiment, words, said):
    with pytest.raises(LabError, match=said):
        experiment(*GPT[:1], *ON, *words)
