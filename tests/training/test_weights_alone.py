"""checkpoint.keep=0: of a run that is done the best's weights are left, and used."""

from pathlib import Path

import pytest
import torch
from comparing import curves, same
from small import branch, cut, train

from lmlab.errors import LabError
from lmlab.handles import Run
from lmlab.runs.checkpoint import read_checkpoint
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.restored import restore

GPT = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "optimizer.lr=0.03"]


def sizes(run: RunDirectory) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (run.path / "checkpoints").iterdir()}


@pytest.fixture
def kept(experiment) -> RunDirectory:
    return experiment(*GPT, "checkpoint.keep=0", "checkpoint.every=5")


def test_the_bests_weights_are_left_and_what_needs_no_more_works(kept, experiment, lab, tmp_path):
    whole = experiment(*GPT, "checkpoint.every=5")
    assert kept.record["metrics"] == whole.record["metrics"]
    assert same(curves(kept), curves(whole))
    best, left = read_checkpoint(whole.best), read_checkpoint(kept.best)
    assert sizes(kept).keys() == {"best.ckpt"}
    assert sizes(kept)["best.ckpt"] < 0.6 * sizes(whole)["best.ckpt"]
    assert same(best["state_dict"], left["state_dict"])
    assert best["global_step"] == left["global_step"] == kept.record["best"]["step"]
    assert left["optimizer_states"] == []

    for which in ("last", "best"):
        assert restore(kept, which).path == kept.best
        losses = [Run(run.path).evaluate(which) for run in (kept, whole)]
        assert losses[0] == losses[1] or which == "last"
    texts = [Run(r.path).generate(max_new_tokens=9, checkpoint="best") for r in (kept, whole)]
    assert texts[0] == texts[1] == Run(kept.path).generate(max_new_tokens=9)
    with pytest.raises(LabError, match="holds no averaged weights"):
        restore(kept, "ema")
    status, said, _ = lab("export", f"run={kept.path}", f"folder={tmp_path / 'out'}")
    assert status == 0
    assert f"best.ckpt (step {left['global_step']})" in said

    status, said, _ = lab("train", f"run={kept.path}")
    assert status == 0
    assert "is done already, after 24 steps" in said
    assert "only its best's weights are kept (checkpoint.keep=0)" in said


def test_a_new_run_begins_with_them_and_an_optimizer_of_its_own(kept, capsys):
    step, weights = kept.record["best"]["step"], read_checkpoint(kept.best)["state_dict"]
    child = train(branch(kept, trainer__max_steps=step + 1, checkpoint__keep=1))
    assert "from: the parent kept weights alone; the optimizer and" in capsys.readouterr().out
    (first, *_) = [int(row["step"]) for row in curves(child)]
    assert first == step + 1
    moved = read_checkpoint(child.checkpoints()[0])["state_dict"]
    assert not same(moved, weights)
    for name, weight in weights.items():  # one step of AdamW moves no weight by more than its rate
        torch.testing.assert_close(moved[name], weight, rtol=0, atol=1.1 * 0.03)


def test_while_it_may_have_to_go_on_the_newest_is_kept_and_it_goes_on(experiment, tmp_path):
    words = [*GPT, "checkpoint.keep=0", "checkpoint.every=5"]
    whole = experiment(*words)
    paused = experiment(*words, "pause_at=17", f"output_dir={tmp_path / 'paused'}")
    assert sizes(paused).keys() == {"best.ckpt", "step-00000017.ckpt"}
    ended = train({**paused.config, "run": str(paused.path)})
    assert sizes(ended).keys() == {"best.ckpt"}
    assert same(
        read_checkpoint(whole.best)["state_dict"], read_checkpoint(ended.best)["state_dict"]
    )


def test_a_run_that_lacks_what_it_would_go_on_with_says_so(kept):
    cut(kept, 12)  # its record says that it was killed
    with pytest.raises(LabError) as error:
        train({**kept.config, "run": str(kept.path)})
    assert str(error.value) == (
        f"run={kept.path} cannot go on: only its best's weights are kept (checkpoint.keep=0), and "
        "neither the optimizer's state nor the place in the data"
    )


def test_a_finished_branch_needs_its_parent_no_more(kept, tmp_path, capsys):
    child = train(branch(kept, trainer__max_steps=30))
    assert sizes(child).keys() == {"best.ckpt"}
    kept.path.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    train({**child.config, "run": str(child.path)})
    assert "is done already, after 30 steps" in capsys.readouterr().out


def test_averaged_weights_stay_beside_the_bests(experiment):
    run = experiment(*GPT, "checkpoint.keep=0", "callbacks=ema")
    assert Path(restore(run, "ema").path) == run.best


def test_a_model_that_takes_no_steps_keeps_what_it_counted(experiment):
    run = experiment("model=ngram", "model.order=3", "checkpoint.keep=0")
    assert sizes(run).keys() == {"step-00000000.ckpt"}
    assert Run(run.path).evaluate()["val/loss_full"] == run.record["metrics"]["val/loss_full"]
