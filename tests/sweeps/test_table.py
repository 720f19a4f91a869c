"""Runs read from their records, folded by seed, sorted."""

import json
import math
import os
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps.made import made

from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.table.reading import RunFiles, read
from lmlab.sweeps.table.settings import METRICS, load, runs_frame, tabulate
from lmlab.sweeps.table.values import canonical, shown


def table(folder: Path, metric: str | None = None):
    return load([folder], metric)


def values(found) -> list[dict]:
    """The keys of each setting, best first."""
    return found.settings[found.keys].to_dict("records")


def test_seeds_are_folded_into_the_mean_and_deviation_of_those_that_are_done(tmp_path):
    losses = {1: 2.4, 2: 2.1, 3: 2.25}
    for seed, loss in losses.items():
        made(tmp_path, {"model": "head", "seed": seed}, loss)
        made(tmp_path, {"model": "bigram", "seed": seed}, loss + 1)
    made(tmp_path, {"model": "head", "seed": 4}, 0.1, "failed", error="boom")
    found = table(tmp_path)
    assert values(found) == [{"model": "head"}, {"model": "bigram"}]
    head = found.settings.loc[1]
    assert head["n"] == 3
    for mean, shift in (("val/loss_full", 0), ("best val/loss", -0.01)):
        expected = statistics.mean(losses.values()) + shift
        assert head[mean] == pytest.approx(expected, abs=1e-15)
        deviation = statistics.stdev(losses.values())
        assert head[f"{mean} sd"] == pytest.approx(deviation, abs=1e-15)
    assert list(found.settings["status"]) == ["3 done, 1 failed", "3 done"]
    assert found.best == 1


def test_one_seed_has_no_deviation(tmp_path):
    made(tmp_path, {"model": "head", "seed": 1}, 2.0)
    found = table(tmp_path)
    (setting,) = found.settings.to_dict("records")
    assert math.isnan(setting["val/loss_full sd"])
    assert (setting["val/loss_full"], setting["status"], found.keys) == (2.0, "done", [])


def test_a_seed_that_diverged_is_not_left_out_of_the_mean(tmp_path):
    for seed, loss in ((1, 2.0), (2, math.nan), (3, 2.0)):
        made(tmp_path, {"model": "nan", "seed": seed}, loss)
        made(tmp_path, {"model": "inf", "seed": seed}, 2.0 if seed != 2 else math.inf)
        made(tmp_path, {"model": "good", "seed": seed}, 3.0)
    made(tmp_path, {"model": "new", "seed": 1}, 2.5, "running")
    found = table(tmp_path)
    assert list(found.settings["model"]) == ["good", "inf", "nan", "new"]
    assert list(found.settings["val/loss_full"])[:2] == [3.0, math.inf]
    assert found.settings["val/loss_full"].isna().tolist() == [False, False, True, True]
    assert found.settings["best val/loss"].iloc[3] == 2.49  # a run alone shows its best so far


def test_a_frame_of_runs_is_there_for_who_wants_to_compute_with_it(tmp_path):
    for seed, loss in ((1, 2.0), (2, 2.5)):
        made(tmp_path, {"optimizer.lr": 0.1, "seed": seed}, loss, parameters=100, tokens=5)
        made(tmp_path, {"optimizer.lr": 1, "seed": seed}, loss - 1, "running")
    runs = runs_frame(tmp_path)
    documented = re.findall(r"^ +- ([\w/ ]+?):", runs_frame.__doc__, re.MULTILINE)
    assert ["optimizer.lr", *documented] == list(runs.columns)
    assert [str(runs[name].dtype) for name in ("optimizer.lr", "seed", "step", "counted")] == [
        *("float64", "int64", "Int64", "bool")
    ]
    means = runs[runs.counted].groupby("optimizer.lr")["val/loss_full"].agg(["mean", "count"])
    assert means.to_dict("index") == {0.1: {"mean": 2.25, "count": 2}}
    assert list(runs["setting"]) == [1, 1, 2, 2]
    assert all((Path(path) / "run.json").is_file() for path in runs["directory"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match="holds no run"):
        runs_frame(tmp_path / "empty")


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


@settings(max_examples=25)
@given(st.data())
def test_folding_loses_no_run_and_folds_only_seeds(data):
    runs = [
        RunFiles(
            Path(f"nowhere/{i}"),
            data.draw(ENDS),
            {"swept": swept, "metrics": {"val/loss_full": data.draw(LOSSES)}},
            None,
        )
        for i, swept in enumerate(data.draw(JOBS))
    ]
    found = tabulate(runs, [], "val/loss_full")
    assert sorted(found.runs.index) == list(range(len(runs)))
    kinds = [
        {canonical({k: v for k, v in runs[i].swept.items() if k != "seed"}) for i in indices}
        for indices in found.runs.groupby("setting").groups.values()
    ]
    assert all(len(kinds) == 1 for kinds in kinds)  # nothing but the seed differs in a setting
    assert len(set.union(*kinds)) == len(found.settings)  # and none stands there twice
    losses = list(found.settings["val/loss_full"])
    numbers = [loss for loss in losses if not math.isnan(loss)]
    assert numbers == sorted(numbers) == losses[: len(numbers)]  # best first, nothing last
    counted = found.runs[found.runs["counted"]]
    assert not counted.duplicated(["setting", "seed"]).any()
    assert set(counted["status"]) <= {"done"}


def test_a_repeated_seed_counts_once(tmp_path):
    for loss in (3.0, 2.0):
        made(tmp_path, {"model": "head", "seed": 1}, loss)
    made(tmp_path, {"model": "head", "seed": 2}, 4.0)
    found = table(tmp_path)
    assert len(found.runs) == 3
    assert found.settings[["n", "val/loss_full"]].to_dict("records") == [
        {"n": 2, "val/loss_full": 3.0}
    ]


def test_runs_without_swept_are_told_apart_by_their_configs(tmp_path):
    for seed in (1, 2):
        for lr in (0.001, 0.1):
            target = {"model._target_": "lmlab.models.transformer.Stack", "model.n_embd": 32}
            made(tmp_path, None, 2.0, config={"optimizer.lr": lr, "seed": seed})
            made(tmp_path, None, 1.9, config={"optimizer.lr": lr, "seed": seed, **target})
    found = table(tmp_path)
    # n_embd, which only one of the two classes has, tells nothing that _target_ does not.
    assert sorted(found.keys) == ["model._target_", "optimizer.lr"]
    assert list(found.settings["status"]) == ["2 done"] * 4


def test_what_a_sweep_does_not_tell_apart_its_configs_do(tmp_path):
    for steps in (100, 300):
        for seed in (1, 2):
            made(
                tmp_path / f"by-{steps}",
                {"model": "head", "seed": seed},
                config={"trainer.max_steps": steps, "logger.csv": steps == 100},
            )
    found = table(tmp_path)
    assert found.keys == ["trainer.max_steps"]  # how it is logged determines no result
    assert list(found.settings["status"]) == ["2 done"] * 2


def test_runs_begun_by_hand_are_known_by_what_they_chose(tmp_path):
    made(tmp_path, {"model": "head"}, 2.0, choices={"model": "head", "corpus": "file"})
    made(tmp_path, {"model": "gpt"}, 1.0, choices={"model": "gpt", "corpus": "file"})
    made(tmp_path, None, 3.0, choices={"model": "bigram", "corpus": "shakespeare"})
    made(tmp_path, None, 4.0, choices=["nonsense"])
    found = table(tmp_path)
    assert found.keys == ["model"]  # no sweep varied the corpus
    assert list(found.settings["model"])[:3] == ["gpt", "head", "bigram"]
    assert math.isnan(found.settings["model"].iloc[3])


def test_a_key_that_is_called_like_a_column_hides_none(tmp_path):
    for n in (1, 2):
        made(tmp_path, {"status": "mine", "n": n, "directory": n}, n + 0.0)
    found = table(tmp_path)
    assert values(found) == [{"n (key)": n, "directory (key)": n} for n in (1, 2)]
    assert list(found.settings["status"]) == ["done", "done"]


def test_tokens_that_cannot_be_compared_are_sorted_by_bits_per_character(tmp_path):
    made(tmp_path, {"tokenizer": "char"}, 2.0)
    other = {"tokenizer._target_": "lmlab.data.tokenizer.Gpt2Tokenizer"}
    coarse = made(tmp_path, {"tokenizer": "gpt2"}, 4.0, config=other)
    record = json.loads((coarse / "run.json").read_text())
    record["metrics"]["val/bpc_full"] = 1.5
    (coarse / "run.json").write_text(json.dumps(record))
    found = table(tmp_path)
    assert found.metric == "val/bpc_full"
    assert values(found)[0] == {"tokenizer": "gpt2"}
    assert values(table(tmp_path, "val/loss_full"))[0] == {"tokenizer": "char"}


def test_a_killed_run_is_told_from_one_that_runs(tmp_path):
    alive = RunDirectory(made(tmp_path, {"seed": 1}, None, "running"))
    dead = RunDirectory(made(tmp_path, {"seed": 2}, None, "running"))
    assert not dead.is_locked()
    assert not (dead.path / ".lock").exists()  # looking leaves no trace
    with alive.locked():
        assert (alive.status, dead.status) == ("running", "killed")
        assert list(table(tmp_path).settings["status"]) == ["1 running, 1 killed"]
    assert alive.status == "killed"


def test_looking_never_keeps_a_run_from_starting(tmp_path):
    run = RunDirectory(made(tmp_path, {"seed": 1}))
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
    assert len(found.runs) == 1
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
    assert len(found.runs) == 5
    assert list(found.settings["status"].iloc[:-1]) == ["done"] * 4
    losses = found.settings.set_index("model")["val/loss_full"]
    assert losses["a"] == 2.0
    assert losses.isna().sum() == 4
    assert set(found.runs["step"].dropna()) == {100}
    assert found.runs["step"].isna().sum() == 2


def test_only_runs_are_found_wherever_they_are(tmp_path):
    made(tmp_path / "sweeps/one", {"seed": 1})
    inner = made(tmp_path / "alone", None)
    (inner / "checkpoints/run.json").parent.mkdir()
    (inner / "checkpoints/run.json").write_text("{}")
    made(tmp_path / ".hidden", {"seed": 2})
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
