"""Runs that begin from another run's checkpoint: longer, cooled down, tuned on other data."""

import shutil

import pytest
import torch
from comparing import checkpoint, curves, same, weights
from small import branch, cut, train

from lmlab.config.fingerprint import fingerprint
from lmlab.errors import LabError
from lmlab.runs.checkpoint import read_checkpoint
from lmlab.runs.directory import RunDirectory

GPT = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "model.dropout=0.1"]


@pytest.mark.parametrize(
    "stop", [17, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (12, 1))]
)
def test_a_longer_run_equals_one_that_was_as_long_from_the_first(experiment, stop):
    whole = experiment(*GPT, "data.steps_per_batch=5")
    part = experiment(*GPT, "data.steps_per_batch=5", f"trainer.max_steps={stop}")
    before = {path: path.read_bytes() for path in part.path.rglob("*") if path.is_file()}
    longer = train(branch(part, trainer__max_steps=24))
    assert longer.path != part.path
    assert {path: path.read_bytes() for path in before} == before
    assert same(weights(whole), weights(longer))
    assert same(checkpoint(whole)["optimizer_states"], checkpoint(longer)["optimizer_states"])
    assert whole.record["metrics"] == longer.record["metrics"]
    assert (whole.path / "sample.txt").read_text() == (longer.path / "sample.txt").read_text()
    by_step = {row["step"]: row for row in curves(longer)}
    for row in curves(whole):
        if int(row["step"]) > stop and int(row["step"]) % 12 == 0:
            assert row["val/loss"] == by_step[row["step"]]["val/loss"]


def test_a_count_of_windows_goes_on_and_begins_again_where_it_would_mean_others(experiment):
    words = ["model=head", "data.order=epochs", "data.batch_size=3"]
    whole, part = experiment(*words), experiment(*words, "trainer.max_steps=17")
    longer = train(branch(part, trainer__max_steps=24))
    assert same(weights(whole), weights(longer))
    for changed, n_used in (
        ({"data__batch_size": 5}, 17 * 3 + 5),  # the next five
        ({"data__block_size": 4}, 3),
        ({"seed": 8}, 3),
    ):
        other = train(branch(part, trainer__max_steps=18, **changed))
        assert checkpoint(other)["TextDataModule"]["windows"] == n_used
    drawn = train(branch(part, trainer__max_steps=18, data__order="random"))
    assert "windows" not in checkpoint(drawn)["TextDataModule"]


def losses_of(run: RunDirectory) -> dict[int, float]:
    return {int(row["step"]): float(row["train/loss"]) for row in curves(run) if row["train/lr"]}


@pytest.mark.parametrize(
    ("begin", "log_every"),
    [(7, 5), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((13, 5), (7, 4), (12, 4)))],
)
def test_each_point_of_train_loss_is_a_mean_of_as_many_steps(experiment, begin, log_every):
    words = ["model=bigram", f"checkpoint.every={begin}", "checkpoint.keep=9", "eval.every=24"]
    whole = experiment(*words, "trainer.log_every_n_steps=1")
    losses = {
        int(row["step"]): float(row["train/loss"]) for row in curves(whole) if row["train/lr"]
    }
    for parents_log_every in (log_every, 3):
        run = experiment(*words, f"trainer.log_every_n_steps={parents_log_every}")
        branched = train(branch(run, f"@{begin}", trainer__log_every_n_steps=log_every))
        points = {row["step"]: row for row in curves(branched) if row["train/lr"]}
        assert points.keys() == {str(s) for s in range(begin + 1, 25) if s % log_every == 0}
        for step, row in points.items():
            of = [losses[s] for s in range(int(step) - log_every + 1, int(step) + 1)]
            known = begin % parents_log_every  # of the parent's last steps, in its checkpoint
            if min(begin, int(step) - log_every) >= begin - known:
                assert float(row["train/loss"]) == pytest.approx(sum(of) / log_every, abs=1e-6)
            else:
                assert row["train/loss"] == ""


def test_a_run_that_goes_on_with_another_grid_has_means_of_whole_points(experiment):
    words = ["model=bigram", "checkpoint.every=7", "checkpoint.keep=9", "eval.every=24"]
    run = experiment(*words, "trainer.log_every_n_steps=1")
    losses = losses_of(run)
    seldom = experiment(*words, "trainer.log_every_n_steps=5")
    cut(seldom, 7)
    config = {**seldom.config, "run": str(seldom.path)}
    config["trainer"] = {**config["trainer"], "log_every_n_steps": 4}
    points = {row["step"]: row["train/loss"] for row in curves(train(config)) if row["train/lr"]}
    for step in (8, 12, 16, 20, 24):
        mean = sum(losses[s] for s in range(step - 3, step + 1)) / 4
        known = step > 8  # of steps 5 to 8 the checkpoint of step 7 has only 6 and 7
        expected = pytest.approx(mean, abs=1e-6) if known else 0
        assert float(points[str(step)] or 0) == expected


LONG = ["data.block_size=16", "callbacks=ema"]


@pytest.mark.parametrize(
    "words",
    [
        GPT,
        pytest.param(["model=head"], marks=pytest.mark.slow),
        pytest.param(["model=multi_head", "optimizer=momentum"], marks=pytest.mark.slow),
        ["model=gpt", "model.n_embd=16", "model.n_layer=1", "optimizer=muon"],
        pytest.param(
            [*GPT, "optimizer=sgd", "~optimizer.fused", "optimizer._target_=torch.optim.Adafactor"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["gpt", "head", "momentum", "muon", "adafactor"],
)
def test_a_smaller_block_size_keeps_the_first_positions(experiment, words):
    parent = experiment(*words, *LONG)
    run = train(branch(parent, data__block_size=8, trainer__max_steps=30, checkpoint__keep=9))
    first, before = read_checkpoint(run.step_checkpoint(24)), checkpoint(parent)
    name = "position_embedding.weight"
    kept = before["state_dict"][f"model.{name}"][:8]
    assert torch.equal(first["state_dict"][f"model.{name}"], kept)
    assert torch.equal(first["ema"]["weights"][name], before["ema"]["weights"][name][:8])
    pairs = zip(*(c["optimizer_states"][0]["state"].values() for c in (first, before)), strict=True)
    for ours, theirs in pairs:
        for key, value in ours.items():
            if isinstance(value, torch.Tensor):
                there = tuple(slice(n) for n in value.shape)
                assert torch.equal(value, theirs[key][there])
    assert run.record["status"] == "done"


def test_models_without_a_place_for_each_token_take_any_block_size(experiment):
    words = ["experiment=modern/rope", "model.n_embd=16", "model.n_layer=1", "data.block_size=16"]
    parent = experiment(*words)
    for block_size in (8, 32):
        run = train(branch(parent, data__block_size=block_size, trainer__max_steps=25))
        assert run.record["status"] == "done"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"data__block_size": 32}, r"position_embedding.weight \(16, 32\) is now \(32, 32\)"),
        ({"data__block_size": 8, "model__n_embd": 16}, r"is now \(16, 16\)"),
    ],
)
def test_what_another_block_size_does_not_explain_is_refused(experiment, more, said):
    parent = experiment("model=head", "data.block_size=16")
    with pytest.raises(LabError, match=said):
        train(branch(parent, trainer__max_steps=30, **more))


def test_its_record_and_fingerprint_say_where_it_comes_from(experiment):
    run = experiment("model=bigram")
    longer = train(branch(run, trainer__max_steps=30))
    parent = {"run": str(run.path), "step": 24, "fingerprint": fingerprint(run.config)}
    assert longer.record["parent"] == parent
    assert longer.config["from"] == parent
    fresh = {**longer.config, "from": None}
    assert longer.record["fingerprint"] == fingerprint(longer.config) != fingerprint(fresh)
    earlier = train(branch(run, "@12", trainer__max_steps=30))
    assert earlier.record["parent"]["step"] == 12
    assert earlier.record["fingerprint"] != longer.record["fingerprint"]


def test_a_cooldown_branch_has_its_own_schedule_and_its_own_best(experiment):
    run = experiment("model=head", "optimizer.lr=0.01")
    linear = {"_target_": "lmlab.training.optimizers.schedules.linear", "_partial_": True}
    linear |= {"warmup_steps": 0, "warmdown": 1.0, "final": 0.0}
    cooled = train(branch(run, "@12", schedule=linear, trainer__max_steps=24))
    rates = {row["step"]: row["train/lr"] for row in curves(cooled) if row["train/lr"]}
    assert float(rates["24"]) == pytest.approx(0.01 / 24)
    assert cooled.record["best"]["step"] == 24  # of its own evaluations


def test_another_rate_keeps_what_the_optimizer_has_gathered_and_another_rule_does_not(experiment):
    run = experiment("model=bigram")
    gathered = checkpoint(run)["optimizer_states"][0]["state"][0]["step"].item()
    slower = train(branch(run, optimizer__lr=1e-4, trainer__max_steps=25))
    (state,) = checkpoint(slower)["optimizer_states"]
    assert state["state"][0]["step"].item() == gathered + 1
    assert state["param_groups"][0]["lr"] == 1e-4
    plain = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "weight_decay": 0.0}
    other = train(branch(run, optimizer={**plain, "momentum": 0.9}, trainer__max_steps=25))
    assert "step" not in checkpoint(other)["optimizer_states"][0]["state"][0]


def test_the_best_checkpoint_may_be_the_parent(experiment):
    run = experiment("model=bigram")
    best = run.record["best"]["step"]
    branched = train(branch(run, "@best", trainer__max_steps=30))
    assert branched.record["parent"]["step"] == best


def test_a_branch_that_was_killed_goes_on_with_its_parent_gone(experiment, tmp_path):
    run = experiment("model=head")
    whole = train(branch(run, trainer__max_steps=48, eval__every=12))
    cut = train({**branch(run, trainer__max_steps=48, eval__every=12), "name": "cut"})
    for path in cut.checkpoints()[:1]:
        path.unlink()
    cut.update(status="killed")
    shutil.rmtree(run.path)
    resumed = train({**cut.config, "run": str(cut.path)})
    assert same(weights(whole), weights(resumed))


def test_a_branch_killed_before_its_first_checkpoint_begins_from_its_parent(experiment):
    run = experiment("model=head")
    whole = train(branch(run, trainer__max_steps=30))
    for path in (whole.path / "checkpoints").iterdir():
        path.unlink()
    expected = checkpoint(train({**branch(run, trainer__max_steps=30), "name": "again"}))
    whole.update(status="killed", step=0)
    assert same(expected["state_dict"], weights(train({**whole.config, "run": str(whole.path)})))


@pytest.mark.parametrize(
    ("which", "more", "said"),
    [
        ("@7", {}, "no such checkpoint; there is one of step 12, 24"),
        ("", {"trainer__max_steps": 24}, "begins at step 24 and counts on, so give more"),
        ("", {"model__n_embd": 16}, "layers.0.key.weight (32, 32) is now (16, 16)"),
        ("/nowhere", {}, "no such directory"),
    ],
)
def test_what_cannot_begin_is_one_line_and_leaves_nothing(experiment, tmp_path, which, more, said):
    run = experiment("model=head")
    config = branch(run, which, **{"trainer__max_steps": 30, "name": "none", **more})
    with pytest.raises(LabError) as error:
        train(config)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "none").exists()


def test_the_first_checkpoint_of_a_branch_holds_the_parents_weights(experiment):
    run = experiment("model=bigram")
    branched = train(branch(run, trainer__max_steps=25, checkpoint__keep=5))
    first = read_checkpoint(branched.step_checkpoint(24))
    assert torch.equal(
        first["state_dict"]["model.table.weight"], weights(run)["model.table.weight"]
    )
    assert first["config"]["from"]["step"] == 24


def test_a_run_tuned_on_another_text_keeps_the_parents_tokenizer(experiment, lab, tmp_path):
    run = experiment("model=head")
    text = tmp_path / "tune.txt"
    text.write_text("ROMEO:\nBut soft, what light\n" * 50)
    corpus = {"_target_": "lmlab.data.corpus.from_files", "path": str(text)}
    tuned = train(branch(run, corpus=corpus, trainer__max_steps=30, data__val_fraction=0.1))
    assert checkpoint(tuned)["tokenizer"] == checkpoint(run)["tokenizer"]
    loss = tuned.record["metrics"]["val/loss_full"]
    assert loss != run.record["metrics"]["val/loss_full"]
    assert f"val/loss_full  {loss:.4f}" in lab("evaluate", f"run={tuned.path}")[1]
    cut(tuned, 24)
    shutil.rmtree(run.path)
    resumed = train({**tuned.config, "run": str(tuned.path)})
    assert resumed.record["metrics"]["val/loss_full"] == loss


def test_a_text_that_the_parents_tokenizer_does_not_know_is_refused(experiment, tmp_path):
    run = experiment("model=head")
    text = tmp_path / "greek.txt"
    text.write_text("πάντα ῥεῖ\n" * 50)
    corpus = {"_target_": "lmlab.data.corpus.from_files", "path": str(text)}
    with pytest.raises(LabError, match="this char tokenizer does not know: 'ά'"):
        train(branch(run, corpus=corpus, trainer__max_steps=30))
    byte = {"_target_": "lmlab.data.tokenizer.ByteTokenizer"}
    with pytest.raises(LabError, match="the parent has the tokenizer char, so this has it too"):
        train(branch(run, tokenizer=byte, trainer__max_steps=30))
