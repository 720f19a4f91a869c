"""Several tokens ahead: what the loss is, and that its heads are nobody else's business."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_same_run, checkpoint, same, weights
from small import branch, cut, train

from lmlab.errors import LabError
from lmlab.models.gpt import GPT
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.restored import restore
from lmlab.training.many_passes.tokens_ahead import TokensAhead

GPT_WORDS = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "model.dropout=0.1"]
AHEAD = [*GPT_WORDS, "loss=tokens_ahead", "loss.tokens=2", "optimizer=muon"]


def test_its_loss_is_what_the_definition_says():
    torch.manual_seed(1)
    model = GPT(5, 8, n_layer=1, n_head=2, n_embd=4)
    loss = TokensAhead(tokens=2, weight=0.5)
    heads = loss.learned_beside(model)
    assert not any(weight.any() for weight in heads.parameters())
    for weight in heads.parameters():
        torch.nn.init.normal_(weight)
    idx, targets = torch.randint(5, (2, 3, 8))
    descended, shown = loss(model, idx, targets)
    states = model.final_norm(
        model.blocks(model.token_embedding(idx) + model.position_embedding(torch.arange(8)))
    )
    next_token = F.cross_entropy(model(idx).flatten(0, 1), targets.flatten())
    two, three = (
        F.cross_entropy((states @ head.weight.T)[:, :-k].flatten(0, 1), targets[:, k:].flatten())
        for k, head in enumerate(heads, 1)
    )
    assert torch.equal(shown, next_token)
    torch.testing.assert_close(descended, next_token + 0.5 * (two + three) / 2)


def test_heads_are_trained_and_no_part_of_the_model(experiment):
    run, without = experiment(*AHEAD), experiment(*GPT_WORDS, "optimizer=muon")
    heads = {name: w for name, w in weights(run).items() if not name.startswith("model.")}
    assert sorted(heads) == ["beside.0.weight", "beside.1.weight"]
    assert all(head.any() for head in heads.values())
    assert weights(run).keys() - heads.keys() == weights(without).keys()
    assert run.record["parameters"] == without.record["parameters"]
    assert run.record["flops"] > without.record["flops"]
    model = restore(run, "last").model
    assert same({f"model.{n}": w for n, w in model.state_dict().items()} | heads, weights(run))
    nothing = experiment(*AHEAD, "loss.weight=0")
    models = {name: w for name, w in weights(nothing).items() if name.startswith("model.")}
    assert same(models, weights(without))
    assert nothing.record["metrics"] == without.record["metrics"]


def test_a_run_that_was_cut_short_ends_as_if_it_never_was(experiment, tmp_path):
    words = [*AHEAD, "checkpoint.every=5", "checkpoint.keep=9"]
    words += ["trainer.gradient_clip_val=0.5", "callbacks=windows"]
    whole, one = (experiment(*words, f"data.steps_per_batch={k}") for k in (7, 1))
    assert same(weights(whole), weights(one))
    shutil.copytree(whole.path, tmp_path / "cut")
    resumed = RunDirectory(tmp_path / "cut")
    cut(resumed, 17)
    train({**resumed.config, "run": str(resumed.path)})
    assert_same_run(whole, resumed)


def test_a_branch_may_begin_with_it_and_without(experiment, capfd):
    plain = experiment(*GPT_WORDS, "trainer.max_steps=12")
    ahead = {"_target_": "lmlab.training.many_passes.tokens_ahead.TokensAhead", "tokens": 1}
    run = train(branch(plain, loss=ahead, trainer__max_steps=24))
    assert checkpoint(run)["state_dict"]["beside.0.weight"].any()
    back = branch(run, loss__tokens=2, trainer__max_steps=36)
    assert "beside.1.weight" in checkpoint(train(back))["state_dict"]
    cross_entropy = {"_target_": "lmlab.training.loss.CrossEntropy"}
    onward = train({**back, "loss": cross_entropy})
    assert all(name.startswith("model.") for name in weights(onward))


def test_a_pupil_may_look_ahead_too(experiment):
    teacher = experiment("model=bigram", "trainer.max_steps=12")
    run = experiment(*AHEAD, f"teacher.runs='{teacher.path}'")
    assert run.record["status"] == "done"
    assert weights(run)["beside.0.weight"].any()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model=bigram"], "adds heads to a linear read-out, and Bigram.* has none"),
        ([*GPT_WORDS, "loss.tokens=8"], "loss.tokens=8: give less than data.block_size=8"),
    ],
)
def test_what_it_cannot_add_to_is_refused_in_a_line(experiment, words, line):
    with pytest.raises(LabError, match=line):
        experiment("loss=tokens_ahead", *words)
