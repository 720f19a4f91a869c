"""How many steps are handed to Lightning at once changes nothing of what a run leaves behind."""

from pathlib import Path
from typing import Any

import pytest
from comparing import checkpoint, curves, same, tensorboard
from small import cut, train

from lmlab.runs.checkpoint import read_checkpoint
from lmlab.runs.directory import RunDirectory

EVERYTHING = [  # that counts steps, each by another number
    *("trainer.max_steps=41", "eval.every=20", "trainer.log_every_n_steps=3"),
    *("checkpoint.every=9", "checkpoint.keep=99"),
    *("callbacks=ema", "callbacks.histograms.every=1"),
    "+callbacks.activations={_target_:lmlab.display.activations.Activations,every:1}",
    "+logger.tracker={_target_:lightning.pytorch.loggers.CSVLogger,name:tracked,version:once}",
    *("schedule=linear", "schedule.warmup_steps=5"),
]
SAVED = [9, 18, 20, 29, 38, 40, 41]


def kept(run: RunDirectory) -> dict[str, dict[str, Any]]:
    parts = ("state_dict", "optimizer_states", "ema", "random", "since_log", "callbacks")
    parts += ("TextDataModule", "trains")
    return {
        path.name: {part: read_checkpoint(path).get(part) for part in parts}
        for path in (run.path / "checkpoints").iterdir()
    }


def tracked(run: RunDirectory) -> list[str]:
    """What somebody else's logger was given, but for what a clock decides."""
    (path,) = run.path.rglob("tracked/**/metrics.csv")
    header, *rows = [line.split(",") for line in Path(path).read_text().splitlines()]
    clock = header.index("train/tokens_per_second")
    return [",".join(row[:clock] + row[clock + 1 :]) for row in (header, *rows)]


def assert_same_but_for_its_config(one: RunDirectory, other: RunDirectory) -> None:
    ours, theirs = tensorboard(one), tensorboard(other)
    for tag in ours.keys() - {"setup/config"}:  # which says data.steps_per_batch
        assert ours[tag] == theirs[tag], tag
    assert ours.keys() == theirs.keys()
    assert curves(one) == curves(other)
    for key in ("metrics", "best", "status", "step", "tokens"):
        assert one.record[key] == other.record[key]
    sample = "sample.txt"
    assert (one.path / sample).read_bytes() == (other.path / sample).read_bytes()


def test_whatever_counts_steps_counts_the_same(experiment):
    words = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "model.dropout=0.2", *EVERYTHING]
    one, *others = [experiment(*words, f"data.steps_per_batch={k}") for k in (1, 7, 10)]
    assert sorted(kept(one)) == ["best.ckpt", *(f"step-{step:08}.ckpt" for step in SAVED)]
    for other in others:
        assert_same_but_for_its_config(one, other)
        assert same(kept(one), kept(other))
        assert tracked(one) == tracked(other)


@pytest.mark.parametrize("k", [1, 7, 10])
def test_checkpoints_fall_on_the_same_steps_wherever_a_run_goes_on(experiment, k):
    run = experiment("model=bigram", *EVERYTHING, f"data.steps_per_batch={k}")
    whole = kept(run)
    cut(run, 18)
    kept_again = kept(train({**run.config, "run": str(run.path)}))
    assert same(whole, kept_again)


def test_every_25_is_every_25(experiment):
    words = ["model=bigram", "checkpoint.every=25", "checkpoint.keep=99", "trainer.max_steps=100"]
    for k in (1, 7, 10, 40):
        run = experiment(*words, "eval.every=100", f"data.steps_per_batch={k}")
        assert [path.stem for path in run.checkpoints()] == [
            f"step-{step:08}" for step in (100, 75, 50, 25)
        ]


def test_a_clock_decides_what_is_kept_and_nothing_else(experiment):
    words = ["model=head", "checkpoint.minutes=1e-9"]
    one, ten = (experiment(*words, f"data.steps_per_batch={k}") for k in (1, 10))
    assert_same_but_for_its_config(one, ten)
    for part in ("state_dict", "optimizer_states", "since_log"):
        assert same(checkpoint(one)[part], checkpoint(ten)[part])
