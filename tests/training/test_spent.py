"""Tokens, operations and seconds of a run: counted beside torch's own counter, and by hand."""

import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import tensorboard
from small import branch, checked, cut, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lmlab.config import build
from lmlab.display.loggers import MetricsCSV
from lmlab.errors import LabError
from lmlab.handles import Run
from lmlab.runs import spent
from lmlab.runs.checkpoint import read_checkpoint
from lmlab.runs.directory import SPENT_COLUMNS, RunDirectory
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.report.questions import Asked
from lmlab.sweeps.table.curves import read_curves
from lmlab.sweeps.table.settings import load
from lmlab.sweeps.table.taken import spent_at
from lmlab.training.beginning.restored import restore
from lmlab.training.costs.costs import Costs
from lmlab.training.costs.flops import flops_per_token
from lmlab.training.processes.stopping import Interrupted

V, T = 65, 8  # of tinyshakespeare, and a window of a tiny run
GPT = ["model=gpt", "model.n_embd=16", "model.n_layer=1", "model.n_head=2"]
LARGE, SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32}, {"n_layer": 1, "n_head": 1, "n_embd": 8}


def by_hand(n_layer: int, n_embd: int, **_: int) -> int:
    """Forward and backward of a GPT for a token: six for each weight in a matrix, and attention."""
    matrices = n_layer * 12 * n_embd**2 + n_embd * V
    return 6 * matrices + 12 * n_layer * n_embd * T


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """torch's counter, which does not know the fused attention of a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def ensemble(composed: Any, batch_size: int, *members: dict[str, int]) -> dict[str, Any]:
    config = composed("model=gpt", f"data.block_size={T}", f"data.batch_size={batch_size}")
    gpt = {**config["model"], "_partial_": True}
    named = {f"member{i}": {**gpt, **sizes} for i, sizes in enumerate(members)}
    target = {"_target_": "lmlab.models.ensemble.Ensemble", "weights": None}
    return {**config, "model": {**target, "members": named}}


@pytest.mark.parametrize("members", [(LARGE, SMALL), (SMALL, LARGE), (SMALL, LARGE, SMALL)])
@pytest.mark.parametrize("batch_size", [4, 6, 7])
def test_each_network_of_an_ensemble_counts_for_the_windows_that_it_reads(
    composed, members, batch_size
):
    config = ensemble(composed, batch_size, *members)
    shares = torch.arange(batch_size).tensor_split(len(members))
    of_a_batch = sum(
        len(share) * T * by_hand(**member) for share, member in zip(shares, members, strict=True)
    )
    counted = flops_per_token(checked(config), V)
    assert round(counted * batch_size * T) == of_a_batch
    model = build.model(config["model"], V, config["data"]["block_size"])
    idx = torch.zeros(batch_size, T, dtype=torch.int64)
    with counting() as counter:
        F.cross_entropy(model(idx).flatten(0, 1), idx.flatten()).backward()
    assert counter.get_total_flops() == of_a_batch


def flops_of_asking(run: Any, batch_size: int) -> int:
    """By torch's counter: one forward pass of a trained model over a batch, in earnest."""
    model = restore(run, "last").model
    with torch.no_grad(), counting() as counter:
        model(torch.zeros(batch_size, T, dtype=torch.int64))
    return counter.get_total_flops()


def test_a_teachers_forward_passes_count(experiment):
    words = ["model=ensemble", "model.members.network.n_embd=16", "model.members.network.n_head=2"]
    counts = ["model=modern", "model.n_embd=16", "model.n_head=2", "model.counts_order=2"]
    teachers = [
        experiment(*GPT, "model.n_embd=32"),
        experiment(*words, "model.members.network.n_layer=1"),
        experiment(*counts, "model.n_layer=1"),
        experiment("model=ngram"),
        experiment("model=bigram"),
    ]
    alone = experiment(*GPT, "trainer.accumulate_grad_batches=2")
    listed = ",".join(f"'{run.path}'" for run in teachers)
    pupil = experiment(
        *GPT, f"teacher.runs=[{listed}]", "trainer.accumulate_grad_batches=2", "callbacks=mfu"
    )
    asking = sum(flops_of_asking(run, 4) for run in teachers)
    assert asking > 0
    assert alone.record["flops"] == 24 * 2 * 4 * T * by_hand(n_layer=1, n_embd=16)
    assert pupil.record["flops"] == alone.record["flops"] + 24 * 2 * asking
    assert pupil.record["teacher_flops"] == 24 * 2 * asking
    assert "teacher_flops" not in alone.record
    assert pupil.record["tokens"] == alone.record["tokens"]
    curve = tensorboard(pupil)
    assert curve["train/flops"][-1] == (24, pytest.approx(pupil.record["flops"]))
    assert [step for step, _ in curve["vs_flops/val/loss"]][-1] == pupil.record["flops"]
    said = " ".join(leaderboard(load([pupil.path.parent])).notes)
    assert "FLOPs: those of teachers' forward passes are among them" in said
    assert "are among them" not in " ".join(leaderboard(load([alone.path])).notes)


def test_a_teacher_that_nobody_can_count_makes_the_sum_unknown():
    from test_flops import Peeks

    from lmlab.training.costs.flops import forward_flops_per_token

    assert forward_flops_per_token([Peeks(V, T)], 4, T) is None
    assert forward_flops_per_token([], 4, T) == 0


PER_TOKEN = by_hand(n_layer=1, n_embd=16)


def assert_counted(run: RunDirectory, tokens: int, seconds: float) -> None:
    assert run.record["tokens"] == tokens
    assert run.record["flops"] == tokens * PER_TOKEN
    assert run.record["seconds"] > seconds
    checkpoint = read_checkpoint(run.checkpoints()[0])[spent.KEY]
    assert (checkpoint["tokens"], checkpoint["flops"]) == (tokens, tokens * PER_TOKEN)
    assert checkpoint["seconds"] > seconds


def test_a_branch_counts_its_parents_steps_as_the_parents(experiment, tmp_path):
    parent = experiment(*GPT, "checkpoint.every=5", "checkpoint.keep=99", "data.steps_per_batch=5")
    assert_counted(parent, 24 * 4 * T, 0)
    path = parent.checkpoints()[1]  # between two evaluations
    of_parent = read_checkpoint(path)[spent.KEY]
    first = of_parent["step"]
    assert 12 < first < 24
    assert of_parent["tokens"] == first * 4 * T
    more = {"trainer__max_steps": 30, "eval__every": 3}
    child = train(branch(parent, f"@{first}", data__batch_size=16, **more))
    of_child = first * 4 * T + (30 - first) * 16 * T
    assert_counted(child, of_child, of_parent["seconds"])
    assert child.record["before"]["step"] == first
    assert child.record["before"]["tokens"] == of_parent["tokens"]

    more = {"trainer__max_steps": 36, "trainer__accumulate_grad_batches": 2}
    grandchild = train(branch(child, "@30", data__batch_size=2, **more))
    assert_counted(grandchild, of_child + 6 * 2 * 2 * T, child.record["seconds"] - 1)
    whole = tensorboard(grandchild)
    cut(grandchild, 33)
    again = train({**grandchild.config, "run": str(grandchild.path)})
    assert_counted(again, of_child + 6 * 2 * 2 * T, child.record["seconds"] - 1)
    tokens = [of_child + (step - 30) * 4 * T for step in (33, 36)]
    for shown in (whole, tensorboard(again)):
        assert [step for step, _ in shown["vs_tokens/val/loss"]] == tokens
        flops = [n * PER_TOKEN for n in tokens]
        assert [step for step, _ in shown["vs_flops/val/loss"]] == flops
        assert [x for _, x in shown["train/flops"]] == pytest.approx(flops)
    clock = EventAccumulator(str(again.path)).Reload().Scalars("train/seconds")
    assert [point.step for point in clock] == [33, 36]
    rows = Run(again.path).curves()
    assert list(rows)[:3] == ["seconds", "tokens", "flops"]
    assert dict(rows["tokens"]) == {s: of_child + (s - 30) * 4 * T for s in rows.index}
    assert dict(rows["flops"]) == {s: n * PER_TOKEN for s, n in rows["tokens"].items()}
    assert list(rows["seconds"]) == sorted(rows["seconds"])
    for point in clock:
        assert rows["seconds"][point.step] == pytest.approx(point.value, abs=0.5)
    assert clock[0].value > read_checkpoint(child.checkpoints()[0])[spent.KEY]["seconds"]
    assert_shown_together(parent, child, tmp_path / "both")


def assert_shown_together(parent: RunDirectory, child: RunDirectory, folder: Path) -> None:
    for run in (parent, child):
        shutil.copytree(run.path, folder / run.path.name)
    table = load([folder])
    today = read_curves(table.runs, ["val/loss", *SPENT_COLUMNS]).dropna(subset=["val/loss"])
    (number,) = (i for i, run in enumerate(table.files) if "before" in run.record)
    first = child.record["before"]["step"]
    steps = [step for step in (21, 24, 27, 30) if step > first]
    for curves in (today, today.assign(tokens=math.nan)):  # an earlier lmlab wrote no column
        curves["tokens"] = spent_at(table, curves, "tokens")
        of_child = curves[curves["run"] == number].set_index("step")["tokens"]
        assert dict(of_child) == {s: first * 4 * T + (s - first) * 16 * T for s in steps}
    assert "those of the other up to there" in " ".join(leaderboard(table).notes)


def test_what_is_added_to_an_evaluations_row_leaves_its_time(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.costs = Costs(tokens=32, began=time.monotonic() - 5)
    logger.log_metrics({"train/loss": 3.0}, 10)
    logger.costs = Costs(tokens=32, began=time.monotonic() - 7)
    logger.log_metrics({"val/loss": 3.0}, 10)
    logger.costs = Costs(tokens=32, began=time.monotonic() - 60)
    logger.log_metrics({"val/loss_full": 3.0}, 10)
    assert logger.rows[10]["seconds"] == pytest.approx(7, abs=0.5)
    assert (logger.rows[10]["tokens"], logger.rows[10]["flops"]) == (320, 0)


def test_a_branch_that_is_stopped_between_evaluations_says_what_it_took(experiment, tmp_path):
    parent = experiment(*GPT)
    config = branch(parent, data__batch_size=8, trainer__max_steps=48, eval__every=24)
    at = {"step": 30, "done": f"{tmp_path}/done", "signum": signal.SIGTERM.value}
    config["callbacks"]["at"] = {"_target_": "misbehaving.At", **at}
    with pytest.raises(Interrupted):
        train(config)
    (path,) = (p for p in parent.path.parent.iterdir() if p != parent.path)
    stopped = RunDirectory(path).record["step"]
    assert 30 <= stopped < 48
    assert_counted(
        RunDirectory(path), 24 * 4 * T + (stopped - 24) * 8 * T, parent.record["seconds"] - 1
    )


def test_a_parent_of_before_this_was_kept_is_counted_by_its_config(experiment):
    parent = experiment(*GPT)
    for path in parent.checkpoints():
        old = read_checkpoint(path)
        del old[spent.KEY]
        torch.save(old, path)
    parent.update(seconds=100.0)
    child = train(branch(parent, "@12", data__batch_size=16, trainer__max_steps=14))
    assert_counted(child, 12 * 4 * T + 2 * 16 * T, 50.0)
    resumed = RunDirectory(parent.path)
    cut(resumed, 12)
    resumed = train({**parent.config, "run": str(parent.path)})
    assert_counted(resumed, 24 * 4 * T, 100.0)
    assert "before" not in resumed.record


@pytest.mark.parametrize(
    "damage",
    [
        {spent.KEY: None},
        {spent.KEY: {"step": -1}},
        {spent.KEY: {"tokens": "many"}},
        {spent.KEY: {"seconds": float("nan")}},
        {"config": {"data": {"batch_size": "x"}}},
        {"config": {"data": 3, "trainer": []}},
    ],
)
def test_a_checkpoint_that_says_nonsense_of_it_is_refused(damage):
    good = {"data": {"batch_size": 4, "block_size": 8}}
    checkpoint = {"global_step": 3, "config": good, **damage}
    with pytest.raises(LabError, match="a checkpoint is damaged"):
        spent.spent_at(checkpoint, {})


def test_where_curves_are_compared_it_is_said_what_is_counted(experiment, tmp_path, capsys):
    parent = experiment(*GPT)
    for seed in (1, 2):
        train(branch(parent, seed=seed, trainer__max_steps=36, optimizer__lr=1e-3))
    table = load([tmp_path])
    (section,) = Asked.parse(table, at=["1000tokens"]).answers()
    assert "runs that began from another's checkpoint" in " ".join(section.notes)


def test_a_plan_counts_the_steps_that_are_left(experiment, lab, tmp_path):
    parent = experiment(*GPT)
    words = [f"from={parent.path}", "trainer.max_steps=30", "data.batch_size=16", "dry_run=true"]
    status, said, _ = lab("train", *words)
    assert status == 0
    assert f"30, from 24 on: {6 * 16 * T:,} tokens" in said
    assert not list(Path(tmp_path).glob("outputs/*"))
