"""Distillation: what a run learns from others, and what it keeps of them."""

import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_same_run, checkpoint, same, weights
from small import cut, train
from torch import nn

from lmlab.config.fingerprint import fingerprint
from lmlab.errors import LabError
from lmlab.training.loss import CrossEntropy, Distillation

GPT = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "model.dropout=0.1"]
BIGRAM = "model=bigram"


@pytest.fixture
def taught(experiment):
    """taught([run, …], "key=value", …): a run that has them for its teacher."""

    def run(teachers: list[Any], *words: str) -> Any:
        listed = ",".join(f"'{teacher}'" for teacher in teachers)
        return experiment(*GPT, f"teacher.runs=[{listed}]", *words)

    return run


def test_its_loss_is_what_the_definition_says():
    torch.manual_seed(1)
    models = [nn.Embedding(5, 5), nn.Embedding(5, 5)]
    idx, targets = torch.randint(5, (2, 2, 7))
    logits = torch.randn(2, 7, 5, requires_grad=True)
    of_text = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss, shown = Distillation(CrossEntropy(), models, share=0.3)(lambda _: logits, idx, targets)
    assert torch.equal(shown, of_text)
    target = (models[0](idx).softmax(-1) + models[1](idx).softmax(-1)).flatten(0, 1) / 2
    log_probs = logits.flatten(0, 1).log_softmax(-1)
    divergence = (target * (target.log() - log_probs)).sum(-1).mean()
    entropy = -(target * target.log()).sum(-1).mean()
    torch.testing.assert_close(loss, 0.7 * of_text + 0.3 * (divergence + entropy))
    loss.backward()
    assert all(p.grad is None for model in models for p in model.parameters())


def test_a_share_of_nothing_changes_nothing(experiment, taught):
    alone, with_it = experiment(*GPT), taught([experiment(BIGRAM).path], "teacher.share=0")
    assert same(weights(alone), weights(with_it))
    assert alone.record["metrics"] == with_it.record["metrics"]


def test_it_draws_a_run_towards_what_the_teacher_says(experiment, taught):
    teacher = experiment(BIGRAM, "trainer.max_steps=200", "optimizer.lr=0.1", "eval.every=200")
    long = ["trainer.max_steps=100", "optimizer.lr=0.01", "eval.every=100"]
    alone, pupil = experiment(*GPT, *long), taught([teacher.path], *long, "teacher.share=1")
    idx = torch.randint(65, (64, 8), generator=torch.Generator().manual_seed(1))
    models = [restored(run) for run in (teacher, alone, pupil)]
    with torch.no_grad():
        target, *others = (model(idx).log_softmax(-1) for model in models)
    apart = [F.kl_div(o, target, log_target=True, reduction="sum") for o in others]
    assert apart[1] < 0.7 * apart[0]


def restored(run: Any) -> nn.Module:
    from lmlab.training.beginning.restored import restore

    return restore(run, "last").model.eval()


def test_nothing_of_the_teacher_is_kept(experiment, taught):
    run = taught([experiment(BIGRAM).path])
    assert weights(run).keys() == weights(experiment(*GPT)).keys()


def test_a_run_that_was_cut_short_goes_on_alike(experiment, taught):
    teachers = [experiment(BIGRAM).path, experiment(*GPT, "seed=2").path]
    whole, cut_short = taught(teachers), taught(teachers)
    cut(cut_short, 12)
    train({**cut_short.config, "run": str(cut_short.path)})
    assert_same_run(whole, cut_short)


def test_the_fingerprint_says_which_teacher_and_not_where(experiment, taught, tmp_path):
    teacher = experiment(BIGRAM)
    run, other = taught([teacher.path]), taught([experiment(BIGRAM, "seed=2").path])
    moved = tmp_path / "moved"
    shutil.copytree(teacher.path, moved)
    fingerprints = [fingerprint(r.config) for r in (run, other, taught([moved]))]
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]
    assert fingerprint(experiment(*GPT).config) not in fingerprints
    assert checkpoint(run)["config"]["teacher"]["runs"] == [
        {"run": str(teacher.path), "step": 24, "fingerprint": fingerprint(teacher.config)}
    ]


def test_a_folder_stands_for_its_runs_and_a_step_for_a_checkpoint(experiment, taught, tmp_path):
    first, second = experiment(BIGRAM), experiment(BIGRAM, "seed=2")
    folder = tmp_path / "teachers"
    for name, run in (("a", first), ("b", second)):
        shutil.copytree(run.path, folder / name)
    assert same(weights(taught([folder])), weights(taught([first.path, second.path])))
    assert taught([f"{first.path}@12"]).config["teacher"]["runs"][0]["step"] == 12


def test_what_cannot_teach_is_refused(experiment, taught, tmp_path):
    run = experiment(BIGRAM)
    (tmp_path / "empty").mkdir()
    for teacher, said in (
        ("nowhere", "teacher.runs=nowhere: no such directory"),
        (tmp_path / "empty", "there is no run in this folder"),
        (f"{run.path}@7", "no such checkpoint; there is one of step 12, 24"),
        (experiment(BIGRAM, "tokenizer=byte").path, "reads other tokens than this run"),
    ):
        with pytest.raises(LabError, match=said):
            taught([teacher])
    with pytest.raises(LabError, match=r"teacher.runs=.* reads 8 tokens at a time, .* 9"):
        taught([run.path], "data.block_size=9")
    pupil = taught([run.path])
    cut(pupil, 12)
    shutil.rmtree(run.path)
    with pytest.raises(LabError, match=r"teacher.runs=.*no such directory"):
        train({**pupil.config, "run": str(pupil.path)})


def test_a_teacher_that_may_know_val_is_remarked_on(experiment, taught, capsys):
    said = "val may not be new to it"
    taught([experiment(BIGRAM).path, experiment(BIGRAM, "data.val_fraction=0.02").path])
    assert said not in capsys.readouterr().out
    taught([experiment(BIGRAM, "data.val_fraction=0.005").path])
    assert said in capsys.readouterr().out


def test_the_default_loss_is_that_of_configs_that_say_none(composed):
    config = composed(BIGRAM)
    assert config["loss"] == {"_target_": "lmlab.training.loss.CrossEntropy"}
    before = {key: node for key, node in config.items() if key != "loss"}
    assert fingerprint(before) == fingerprint(config)
