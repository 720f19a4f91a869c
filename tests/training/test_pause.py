"""A run that pauses at a step before its end, and goes on as if it never had."""

import pytest
from comparing import assert_same_run, checkpoint
from small import branch, checked, train

from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.start import Start

GPT = [
    *("model=gpt", "model.n_embd=16", "model.n_layer=1", "model.dropout=0.1"),
    *("schedule=cosine", "schedule.warmup_steps=5", "data.steps_per_batch=4", "callbacks=ema"),
]
NOTEBOOK = ["experiment=notebook", "name=test", "trainer.max_steps=24", "eval.every=12"]


@pytest.mark.parametrize(
    "words", [GPT, pytest.param(NOTEBOOK, marks=pytest.mark.slow)], ids=["gpt", "one stream"]
)
def test_a_run_that_pauses_is_the_run_that_does_not(experiment, tmp_path, words):
    """Within a Lightning batch, at its end, at an evaluation, off it, and at several steps."""
    whole = experiment(*words, f"output_dir={tmp_path / 'whole'}")
    for steps in ([1], [4, 17], [12, 23]):
        config = {**whole.config, "output_dir": str(tmp_path / str(steps)), "resume": "auto"}
        for step in steps:
            paused = train({**config, "pause_at": step})
            assert (paused.status, paused.record["step"]) == ("paused", step)
            assert paused.record["fingerprint"] == whole.record["fingerprint"]
            assert checkpoint(paused)["global_step"] == step
            assert paused.config["pause_at"] is checkpoint(paused)["config"]["pause_at"] is None
        assert_same_run(whole, train(config))


def test_paused_already_or_killed_before_it_was_said(experiment):
    run = experiment("model=bigram", "pause_at=12")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    again = {**run.config, "run": str(run.path), "pause_at": 12}
    assert Start.find(checked(again)).is_finished
    assert train(again).record["step"] == 12
    assert {path: path.read_bytes() for path in before} == before  # nothing was touched
    run.update(status="running", step=0)
    assert train({**again, "pause_at": 11}).status == "paused"  # by what its checkpoint says
    assert run.record["step"] == 12


def test_a_paused_run_has_children(experiment):
    run = experiment("model=bigram", "pause_at=5")
    child = train(branch(run, trainer__max_steps=9))
    assert (child.status, child.record["before"]["step"]) == ("done", 5)


def test_the_end_is_no_place_to_pause(composed):
    with pytest.raises(LabError, match=r"pause_at=24 is no step before the end"):
        composed("trainer.max_steps=24", "pause_at=24")


@pytest.mark.parametrize("dry_run", ["false", "true"])
def test_a_model_that_counts_does_not_pause(lab, trained, tmp_path, dry_run):
    words = ["corpus=file", f"corpus.path={trained / 'text.txt'}", "model=ngram", "pause_at=3"]
    status, _, err = lab("train", *words, f"dry_run={dry_run}")
    problem = "pause_at=3: lmlab.models.ngram.NGram counts and takes no steps; leave it out"
    assert (status, err) == (2, f"error: {problem}\n")
    assert not (tmp_path / "outputs").exists()


def test_a_child_pauses_behind_its_beginning(experiment):
    run = experiment("model=bigram", "pause_at=5")
    for step in (3, 5):
        with pytest.raises(LabError, match=rf"pause_at={step}: the run begins at step 5"):
            train({**branch(run), "pause_at": step})


def test_from_the_command_line(lab, trained):
    words = ["corpus=file", f"corpus.path={trained / 'text.txt'}", "model=bigram", "name=fox"]
    words += ["data.block_size=8", "trainer.max_steps=6", "eval.every=2", "eval.iters=1"]
    status, out, err = lab("train", *words, "pause_at=3")
    assert (status, err) == (0, "")
    assert "paused at step 3; everything is kept" in out
    word = next(line for line in out.splitlines() if line.startswith("continue")).split()[-1]
    run = RunDirectory.open(word.removeprefix("run="))
    _, out, _ = lab("train", word, "pause_at=3")
    assert out.splitlines() == [f"{run.path} is paused already, after 3 steps"]
    assert lab("train", word, "pause_at=5")[0] == 0
    assert (run.status, run.record["step"]) == ("paused", 5)
    _, out, _ = lab("train", word)
    assert "val/loss_full" in out
    assert run.status == "done"
