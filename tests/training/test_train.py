"""Whole runs, from a composed config to what stands in the run directory."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from comparing import NOISY, checkpoint, curves, same, tensorboard, weights
from small import checked, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lmlab import handles as opened
from lmlab.data.tokenizer import Tokenizer
from lmlab.data.tokens import text_of
from lmlab.runs.checkpoint import read_checkpoint
from lmlab.runs.directory import RunDirectory
from lmlab.training.beginning.restored import restore


def optimizer_state(run: RunDirectory) -> list:
    return checkpoint(run)["optimizer_states"]


def metrics(run: RunDirectory) -> dict[str, float]:
    return run.record["metrics"]


def test_notebook_experiment_prints_the_notebook_numbers(
    composed, tinyshakespeare_path, tmp_path, capsys
):
    config = composed(
        "experiment=notebook", f"corpus.path={tinyshakespeare_path}", f"output_dir={tmp_path}"
    )
    run = train(config)
    said = capsys.readouterr().out
    assert "loss 4.8786" in said
    assert "step 10000: loss 2.4145" in said
    sample = (run.path / "sample.txt").read_text()
    ids = Tokenizer.from_json(read_checkpoint(run.checkpoint("last"))["tokenizer"]).encode(
        sample.lstrip("\n")
    )
    assert ids[:8].tolist() == [24, 21, 1, 46, 43, 11, 0, 28]
    assert len(sample) == 100


def test_run_directory_explains_itself(experiment):
    run = experiment("model=head")
    record = json.loads((run.path / "run.json").read_text())
    assert record["status"] == "done"
    assert record["step"] == 24
    assert set(record["metrics"]) == {
        "train/loss_eval",
        "train/loss_last",
        "val/loss",
        "val/loss_full",
        "val/bpb",
        "val/bpb_full",
        "val/bpc",
        "val/bpc_full",
    }
    for pass_ in ("", "_full"):
        in_nats = record["metrics"][f"val/loss{pass_}"]
        for unit in ("bpb", "bpc"):  # the text is of one byte a character
            in_bits = record["metrics"][f"val/{unit}{pass_}"]
            assert in_bits == pytest.approx(in_nats / math.log(2))
            assert in_bits == pytest.approx(float(curves(run)[-1][f"val/{unit}{pass_}"]))
    assert len(record["fingerprint"]) == 16
    assert record["versions"]["torch"].startswith("2.13.0")
    assert (record["threads"], record["device"]) == (torch.get_num_threads(), "cpu")
    assert record["processor"]
    assert record["code"] == {}  # none but the lab's own
    assert {p.name for p in (run.path / "checkpoints").iterdir()} == {
        "best.ckpt",
        "step-00000012.ckpt",
        "step-00000024.ckpt",
    }
    assert {p.name for p in run.path.iterdir() if not p.name.startswith("events")} == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "projector",
        "projector_config.pbtxt",
        "run.json",
        "sample.txt",
        "train.log",
    }


def test_tensorboard_shows_losses_rate_speed_and_samples(experiment):
    run = experiment("model=head")
    events = EventAccumulator(str(run.path), size_guidance={"scalars": 0}).Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [0, 4, 8, 12, 16, 20, 24]
    assert [e.step for e in events.Scalars("val/loss")] == [0, 12, 24]
    for tag in ("train/lr", *NOISY, "val/bpb", "val/bpc", "val/loss_full", "train/loss_eval"):
        assert events.Scalars(tag)
    assert [e.step for e in events.Tensors("sample")] == [12, 24]
    in_csv = {row["step"]: row["train/loss"] for row in curves(run)}
    for event in events.Scalars("train/loss")[1:]:
        assert event.value == pytest.approx(float(in_csv[str(event.step)]), rel=1e-6)


def test_the_end_of_a_resumed_run_is_kept_however_many_files_the_process_made(experiment, tmp_path):
    run = experiment("eval.iters=1", "trainer.max_steps=4", "eval.every=2")
    spent = tmp_path / "spent"
    made = {0}
    while set(str(max(made) + 1)) != {"9"}:  # the next file's number is the last of its length
        EventFileWriter(str(spent)).close()
        made |= {int(path.name.rpartition(".")[2]) for path in spent.iterdir()}
    time.sleep(1 - time.time() % 1)  # what follows takes less than a second
    run.checkpoints()[0].unlink()
    run.update(status="killed")
    train({**run.config, "run": str(run.path)})
    events = EventAccumulator(str(run.path)).Reload()
    assert [event.step for event in events.Scalars("val/loss_full")] == [4]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=gpt", "model.n_embd=16", "model.n_layer=2", "model.dropout=0.2"],
        pytest.param(["model=layer_norm", "trainer.precision=bf16-mixed"], marks=pytest.mark.slow),
        pytest.param(
            ["model=head", "trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.1"],
            marks=pytest.mark.slow,
        ),
        ["model=head", "schedule=cosine", "schedule.warmup_steps=5", "trainer.max_steps=31"],
    ],
    ids=["gpt-dropout", "bf16", "accumulate-clip", "cosine-ragged"],
)
def test_stacking_steps_never_changes_a_result(experiment, overrides):
    one, five = [experiment(*overrides, f"data.steps_per_batch={k}") for k in (1, 5)]
    assert same(weights(one), weights(five))
    assert same(optimizer_state(one), optimizer_state(five))
    assert curves(one) == curves(five)
    assert metrics(one) == metrics(five)


def test_evaluation_never_touches_training(experiment):
    gpt = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "model.dropout=0.2"]
    seldom = experiment(*gpt, "eval.every=24")
    often = experiment(*gpt, "eval.every=3", "eval.iters=7", "callbacks.sample.max_new_tokens=30")
    full = experiment(*gpt, "eval.every=8", "eval.protocol=full", "~callbacks.sample")
    assert same(weights(seldom), weights(often))
    assert same(weights(seldom), weights(full))


def test_same_seed_same_result_other_seed_other_result(experiment):
    first, again, other = (experiment("model=head", f"seed={seed}") for seed in (5, 5, 6))
    assert same(weights(first), weights(again))
    assert metrics(first) == metrics(again)
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize("stride", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8))])
def test_every_val_token_but_the_first_counts_once(experiment, stride):
    run = experiment("model=gpt", "model.n_embd=16", "data.val_fraction=0.001", "eval.every=24")
    found = opened.Run(run.path).evaluate(stride=stride)
    text, model = text_of(checked(run.config)), restore(run, "last").model.eval()
    val = text.ids.whole().long()[int((1 - 0.001) * len(text.ids)) :]
    length = torch.from_numpy(text.tokenizer.characters_per_token())
    total, done, n_characters = 0.0, 0, 0.0
    while done < len(val) - 1:
        end = min(done + (8 if done == 0 else stride), len(val) - 1)
        targets = val[done + 1 : end + 1]
        with torch.no_grad():
            logits = model(val[end - 8 : end][None])[0, done - end :]
        total += F.cross_entropy(logits.double(), targets, reduction="sum").item()
        n_characters += length[targets].sum().item()
        done = end
    assert found["val/loss_full"] == pytest.approx(total / (len(val) - 1), rel=1e-6)
    assert found["val/bpc_full"] == pytest.approx(total / math.log(2) / n_characters, rel=1e-6)


def test_accumulated_small_batches_equal_one_large_batch(experiment):
    large = experiment("model=head", "data.batch_size=8", "trainer.max_steps=3")
    small = experiment(
        "model=head",
        "data.batch_size=2",
        "trainer.accumulate_grad_batches=4",
        "trainer.max_steps=3",
    )
    for name, value in weights(large).items():
        torch.testing.assert_close(value, weights(small)[name], rtol=1e-4, atol=1e-5)


def test_counting_model_runs_without_a_gradient(experiment):
    run = experiment("model=ngram", "data.block_size=32", "model.order=3")
    assert run.record["status"] == "done"
    assert 1.9 < run.record["metrics"]["val/loss_full"] < 2.2
    assert restore(run, "last").model.block_size == 32


def test_two_runs_of_one_second_have_two_directories(experiment):
    runs = [experiment("model=bigram", "trainer.max_steps=1") for _ in range(3)]
    assert len({run.path for run in runs}) == 3


def test_diverged_run_is_marked_failed_and_says_what_to_try(experiment, tmp_path):
    from lmlab.errors import LabError

    with pytest.raises(LabError, match=r"at step \d+ .*optimizer\.lr"):
        experiment("model=feed_forward", "optimizer=sgd", "optimizer.lr=1e30")
    (record,) = Path(tmp_path).glob("test/*/run.json")
    assert json.loads(record.read_text())["status"] == "failed"


def test_a_run_of_bytes_tells_losses_per_character_and_per_byte(experiment, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("naïve café — πολύ καλά. " * 400, encoding="utf-8")
    run = experiment(
        "corpus=file", f"corpus.path={text}", "tokenizer=byte", "data.val_fraction=0.1"
    )
    n_bytes, n_chars = len(text.read_bytes()), len(text.read_text())
    found = run.record["metrics"]
    # Nats per byte times bytes per character, in bits; the text repeats, so val has its ratio.
    expected = found["val/loss_full"] * (n_bytes / n_chars) / math.log(2)
    assert found["val/bpc_full"] == pytest.approx(expected, rel=0.02)
    assert found["val/bpb_full"] == pytest.approx(found["val/loss_full"] / math.log(2))


@pytest.mark.parametrize(("steps", "every"), [(24, 10), (7, 10)])
def test_the_last_evaluation_is_one_too_wherever_the_end_falls(experiment, steps, every):
    run = experiment("model=bigram", f"eval.every={every}", f"trainer.max_steps={steps}")
    shown, record = tensorboard(run), run.record
    at = [*range(every, steps, every), steps]
    for tag in ("val/loss", "val/loss_best", "sample"):
        before = [0] if tag.startswith("val/loss") else []
        assert [step for step, _ in shown[tag]] == [*before, *at]
    drawn = [step for n, step in enumerate(at, 1) if n % 2 == 0 or step == steps]
    assert [step for step, _ in shown["view/bigram"]] == drawn
    assert record["best"]["step"] == steps  # so early, the loss falls
    assert record["best"]["val/loss"] == record["metrics"]["val/loss"]
    assert shown["val/loss_best"][-1][1] == pytest.approx(record["best"]["val/loss"])
    assert same(torch.load(run.best)["state_dict"], weights(run))
    assert f"step {steps:>{len(str(steps))}}/{steps}" in (run.path / "train.log").read_text()
