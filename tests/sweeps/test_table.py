"""Runs read from their records, folded by seed, sorted."""

import json
import math
import os
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeps.made import made

from lmlab.errors import LabError
from lmlab.runs import Run
from lmlab.sweeps.table import METRICS, Row, canonical, rank, read, shown, tabulate


def table(folder: Path, metric: str | None = None):
    return tabulate(*read([folder]), metric)


def test_seeds_are_folded_into_the_mean_and_deviation_of_those_that_are_done(tmp_path):
    losses = {1: 2.4, 2: 2.1, 3: 2.25}
    for seed, loss in losses.items():
        made(tmp_path, {"model": "head", "seed": seed}, loss)
        made(tmp_path, {"model": "bigram", "seed": seed}, loss + 1)
    made(tmp_path, {"model": "head", "seed": 4}, 0.1, "failed", error="boom")
    found = table(tmp_path)
    assert found.columns == ["model"]
    first, second = found.groups
    assert (first.values, second.values) == ({"model": "head"}, {"model": "bigram"})
    mean = first.mean("val/loss_full")
    assert mean.n == 3
    assert mean.mean == pytest.approx(statistics.mean(losses.values()), abs=1e-15)
    assert mean.deviation == pytest.approx(statistics.stdev(losses.values()), abs=1e-15)
    assert first.mean("best").mean == pytest.approx(statistics.mean(losses.values()) - 0.01)
    assert (first.status, second.status) == ("3 done, 1 failed", "3 done")
    assert found.best is first


def test_one_seed_has_no_deviation(tmp_path):
    made(tmp_path, {"model": "head", "seed": 1}, 2.0)
    found = table(tmp_path)
    (group,) = found.groups
    assert (group.mean("val/loss_full").deviation, group.status, found.columns) == (
        None,
        "done",
        [],
    )


JOBS = st.lists(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["bigram", "head"]),
            "optimizer.lr": st.sampled_from([0.001, 0.1, 1, 1.0]),
            "seed": st.integers(1, 3),
        },
        optional={"betas": st.sampled_from([[0.9, 0.99], [0.9, 0.999], None, True, 1])},
    ),
    min_size=1,
    max_size=20,
)
ENDS = st.sampled_from(["done", "done", "failed", "pruned"])
LOSSES = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


@given(st.data())
def test_folding_loses_no_run_and_folds_only_seeds(data):
    rows = [
        Row(
            Run(Path(f"nowhere/{i}")),
            data.draw(ENDS),
            {"swept": swept, "metrics": {"val/loss_full": data.draw(LOSSES)}},
        )
        for i, swept in enumerate(data.draw(JOBS))
    ]
    found = tabulate(rows, [], "val/loss_full")
    assert sorted(id(row) for g in found.groups for row in g.rows) == sorted(map(id, rows))
    settings = [
        {canonical({k: v for k, v in row.swept.items() if k != "seed"}) for row in group.rows}
        for group in found.groups
    ]
    assert all(len(kinds) == 1 for kinds in settings)  # nothing but the seed differs in a group
    assert len(set.union(*settings)) == len(found.groups)  # and no setting is in two
    means = [group.mean("val/loss_full") for group in found.groups]
    places = [rank(None if mean is None else mean.mean) for mean in means]
    assert places == sorted(places)  # best first; infinity, NaN and nothing last
    for group in found.groups:
        seeds = [row.seed for row in group.counted]
        assert len(seeds) == len(set(seeds))
        assert {row.status for row in group.counted} <= {"done"}


def test_a_repeated_seed_counts_once(tmp_path):
    for loss in (3.0, 2.0):
        made(tmp_path, {"model": "head", "seed": 1}, loss)
    made(tmp_path, {"model": "head", "seed": 2}, 4.0)
    (group,) = table(tmp_path).groups
    assert len(group.rows) == 3
    assert (group.mean("val/loss_full").n, group.mean("val/loss_full").mean) == (2, 3.0)


def test_runs_without_swept_are_told_apart_by_their_configs(tmp_path):
    for seed in (1, 2):
        for lr in (0.001, 0.1):
            target = {"model._target_": "lmlab.models.transformer.Stack", "model.n_embd": 32}
            made(tmp_path, None, 2.0, config={"optimizer.lr": lr, "seed": seed})
            made(tmp_path, None, 1.9, config={"optimizer.lr": lr, "seed": seed, **target})
    found = table(tmp_path)
    # n_embd, which only one of the two classes has, tells nothing that _target_ does not.
    assert sorted(found.columns) == ["model._target_", "optimizer.lr"]
    assert [group.status for group in found.groups] == ["2 done"] * 4


def test_what_a_sweep_does_not_tell_apart_its_configs_do(tmp_path):
    for steps in (100, 300):
        for seed in (1, 2):
            made(
                tmp_path / f"by-{steps}",
                {"model": "head", "seed": seed},
                config={"trainer.max_steps": steps, "logger.csv": steps == 100},
            )
    found = table(tmp_path)
    assert found.columns == ["trainer.max_steps"]  # how it is logged determines no result
    assert [group.status for group in found.groups] == ["2 done"] * 2


def test_tokens_that_cannot_be_compared_are_sorted_by_bits_per_character(tmp_path):
    made(tmp_path, {"tokenizer": "char"}, 2.0)
    other = {"tokenizer._target_": "lmlab.data.tokenizer.Gpt2Tokenizer"}
    coarse = made(tmp_path, {"tokenizer": "gpt2"}, 4.0, config=other)
    record = json.loads((coarse / "run.json").read_text())
    record["metrics"]["val/bpc"] = 1.5
    (coarse / "run.json").write_text(json.dumps(record))
    found = table(tmp_path)
    assert found.metric == "val/bpc"
    assert found.groups[0].values == {"tokenizer": "gpt2"}
    assert table(tmp_path, "val/loss_full").groups[0].values == {"tokenizer": "char"}


def test_a_killed_run_is_told_from_one_that_runs(tmp_path):
    alive = Run(made(tmp_path, {"seed": 1}, None, "running"))
    dead = Run(made(tmp_path, {"seed": 2}, None, "running"))
    assert not dead.is_locked()
    assert not (dead.path / ".lock").exists()  # looking leaves no trace
    with alive.locked():
        assert (alive.status, dead.status) == ("running", "killed")
        assert table(tmp_path).groups[0].status == "1 running, 1 killed"
    assert alive.status == "killed"


def test_looking_never_keeps_a_run_from_starting(tmp_path):
    run = Run(made(tmp_path, {"seed": 1}))
    looking = os.fork()
    if not looking:
        while True:
            run.is_locked()
    try:
        for _ in range(50):
            with run.locked():
                pass
    finally:
        os.kill(looking, 9)
        os.waitpid(looking, 0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b'{"status": "done", "metr',
        b"[1, 2]",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"status": "\\ud800"}',
        None,
    ],
    ids=["empty", "half-written", "a list", "no text", "nested", "half a character", "a pipe"],
)
def test_a_record_that_cannot_be_read_is_said_in_one_line(tmp_path, garbage):
    made(tmp_path, {"seed": 1}, 2.0)
    bad = made(tmp_path, {"seed": 2}, 2.0)
    if garbage is None:
        (bad / "run.json").unlink()
        os.mkfifo(bad / "run.json")
    else:
        (bad / "run.json").write_bytes(garbage)
    found = table(tmp_path)
    assert len(found.rows) == 1
    (said,) = found.unreadable
    assert str(bad) in said
    assert "\n" not in said


def test_a_record_with_nonsense_in_it_is_shown_without_it(tmp_path):
    made(tmp_path, {"model": "a"}, 2.0)
    made(tmp_path, {"model": "b"}, math.nan)
    made(tmp_path, {"model": "c"}, metrics=[1], best="no", step="ten", seconds={}, error={"a": 1})
    made(tmp_path, {"model": "d"}, metrics={"val/loss_full": "2.0"})
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/run.json").write_text("{}")
    found = table(tmp_path)
    assert len(found.rows) == 5
    firsts = [group.rows[0].metric("val/loss_full") for group in found.groups]
    assert firsts[0] == 2.0
    assert math.isnan(firsts[1])
    assert firsts[2:] == [None, None, None]
    assert {row.step for row in found.rows} == {100, None}


def test_only_runs_are_found_wherever_they_are(tmp_path):
    made(tmp_path / "sweeps/one", {"seed": 1})
    inner = made(tmp_path / "alone", None)
    (inner / "checkpoints/run.json").parent.mkdir()
    (inner / "checkpoints/run.json").write_text("{}")
    made(tmp_path / ".hidden", {"seed": 2})
    (tmp_path / "seed-mean/model=head").mkdir(parents=True)
    assert len(read([tmp_path])[0]) == 2
    assert len(read([tmp_path, tmp_path / "alone", inner])[0]) == 2  # none twice
    with pytest.raises(LabError, match="no such directory"):
        read([tmp_path / "nonesuch"])


def test_values_are_shown_as_they_are_typed():
    values = [1e-05, 0.001, 1.0, 3, True, None, [0.9, 0.99], "a\nb", 0.0034182736451, math.nan]
    assert [shown(value) for value in values] == [
        *("1e-05", "0.001", "1", "3", "true", "null", "[0.9, 0.99]", "a b", "0.003418", "nan")
    ]
    long = shown("x" * 300, width=20)
    assert len(long) == 20
    assert "…" in long


def test_values_that_are_equal_in_a_config_have_one_canonical_text():
    assert canonical(1) == canonical(1.0) != canonical(True)
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical(10**400) != canonical(10**400 + 1)


def test_every_metric_says_unit_and_protocol():
    for metric in METRICS.values():
        assert metric.unit in ("nats per token", "bits per character")
        assert "{" in metric.protocol
