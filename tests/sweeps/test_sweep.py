"""Sweeps that are interrupted, that hold bad jobs, or that are asked for twice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeps.conftest import ROOT, ended, records, small_sweep

from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.launch.job import job_name

NUMBERS = ("val/loss", "val/loss_full", "val/bpc", "val/bpc_full", "train/loss_eval")


def only_sweep(folder: Path) -> Path:
    (found,) = (folder / "outputs/sweeps").iterdir()
    return found


def numbers(of: dict[str, dict]) -> dict[str, list[float]]:
    return {name: [record["metrics"][key] for key in NUMBERS] for name, record in of.items()}


def begun(of: dict[str, dict]) -> dict[str, str]:
    return {name: record["started"] for name, record in of.items()}


@pytest.mark.parametrize(
    ("launcher", "seeds"), [("basic", "1"), pytest.param("joblib", "1,2", marks=pytest.mark.slow)]
)
def test_a_killed_sweep_goes_on_and_ends_as_if_it_had_not_been(
    sweep, sweep_here, tmp_path, launcher, seeds
):
    words = ["model=bigram,head", f"seed={seeds}", "trainer.max_steps=200", "eval.every=50"]
    words += [f"hydra/launcher={launcher}", "callbacks.pictures.every=0"]
    n_jobs = 2 * len(seeds.split(","))
    killed = sweep(*words)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        folder = tmp_path / "outputs/sweeps"
        there = records(only_sweep(tmp_path)) if folder.is_dir() and any(folder.iterdir()) else {}
        if any(record["status"] == "done" for record in there.values()):
            break
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()

    before = records(only_sweep(tmp_path))
    done = {name for name, record in before.items() if record["status"] == "done"}
    assert 1 <= len(done) < n_jobs
    stamps = {name: (only_sweep(tmp_path) / name / "run.json").stat().st_mtime_ns for name in done}

    said = sweep_here(*words)
    after = records(only_sweep(tmp_path))
    assert {record["status"] for record in after.values()} == {"done"}
    assert len(after) == n_jobs
    assert f"{n_jobs}/{n_jobs} done ({len(done)} before)" in said
    for name in done:  # nothing done was done twice
        assert (only_sweep(tmp_path) / name / "run.json").stat().st_mtime_ns == stamps[name]
    for name in before:  # nothing half done was begun again
        assert after[name]["started"] == before[name]["started"]

    sweep_here(*words, "hydra/launcher=basic", "sweep.name=undisturbed")
    undisturbed = records(tmp_path / "outputs/sweeps/undisturbed")
    assert numbers(after) == numbers(undisturbed)


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_bad_jobs_end_only_themselves(sweep_here, tmp_path, launcher):
    words = ["model=bigram", "model._target_=misbehaving.Misbehaving", f"hydra/launcher={launcher}"]
    expected = {"raise": "failed", "exit": "failed", "no": "done"}
    if launcher == "joblib":  # the process of a job is another than this one
        expected = {"kill": "killed", **expected}
    words += [f"+model.how={','.join(expected)}"]
    said = sweep_here(*words, status=2)
    found = records(only_sweep(tmp_path))
    statuses = {record["swept"]["model.how"]: record["status"] for record in found.values()}
    assert statuses == expected
    assert f"error: {len(expected) - 1} of {len(expected)} jobs failed" in said
    for name, record in found.items():
        log = (only_sweep(tmp_path) / name / "train.log").read_text()
        if record["swept"]["model.how"] == "raise":
            part = "(This was raised inside model._target_=misbehaving.Misbehaving)"
            assert record["error"] == f"ValueError: this model always raises {part}"
            assert f"failed  {name}  {record['error']}" in said
            assert "Traceback" in log
            assert "in _go_wrong" in log
        if record["swept"]["model.how"] == "exit":
            assert record["error"] == "SystemExit: 3"
            assert "Traceback" in log

    # Again: what failed is tried again, what is done is left alone.
    good = {name: record for name, record in found.items() if record["status"] == "done"}
    sweep_here(*words, status=2)
    again = records(only_sweep(tmp_path))
    assert {name: again[name] for name in good} == good


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_once_is_done_in_the_end(sweep, tmp_path):
    words = ["model=bigram", "model._target_=misbehaving.Misbehaving", "hydra/launcher=joblib"]
    once = tmp_path / "killed"
    said = ended(sweep(*words, f"+model.how='kill-once={once}'", "seed=1,2,3,4"))
    assert once.exists()
    assert "a worker died" in said
    assert [r["status"] for r in records(only_sweep(tmp_path)).values()] == ["done"] * 4


def test_failures_are_said_at_once_and_fail_fast_begins_nothing_more(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "eval.iters=2"]
    words += ["trainer.max_steps=4", "model=bigram", "data.val_fraction=0.999,0.1"]
    status, out, err = lab("train", *words, "sweep.fail_fast=true")
    assert status == 2
    assert "data.block_size=8 needs a train split of at least 9 tokens" in out
    assert err == "error: 1 of 2 jobs failed, 1 not begun; the same command tries again\n"
    (record,) = records(only_sweep(tmp_path)).values()
    assert record["status"] == "failed"

    status, out, err = lab("train", *words)
    assert status == 2
    assert out.index("failed  val_fraction=0.999") < out.index("done    val_fraction=0.1")
    assert sorted(r["status"] for r in records(only_sweep(tmp_path)).values()) == ["done", "failed"]


def test_more_values_are_more_jobs_in_the_same_sweep(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "eval.iters=2"]
    words += ["trainer.max_steps=4", "model=bigram"]
    assert lab("train", *words, "seed=1,2")[0] == 0
    first = records(only_sweep(tmp_path))
    status, out, err = lab("train", *words[::-1][:-1], "seed=3,2,1", "-m")
    assert status == 0, err
    assert "3/3 done (2 before)" in out
    second = records(only_sweep(tmp_path))
    assert len(second) == 3
    assert first.items() <= second.items()
    assert [r["swept"] for r in second.values()] == [{"seed": n} for n in (1, 2, 3)]


def test_a_finished_sweep_is_answered_without_torch(sweep_here, text, tmp_path):
    words = ["model=bigram", "seed=1,2"]
    sweep_here(*words)
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    command = [sys.executable, str(ROOT / "scripts/train.py"), *small_sweep(text), *words]
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}"}
    said = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "2/2 done (2 before)" in said.stdout, said.stderr


def test_a_job_whose_numbers_become_floats_finds_itself_done(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "eval.iters=2"]
    words += ["trainer.max_steps=2", "model=bigram", "optimizer.lr=1"]
    assert lab("train", *words)[0] == 0
    before = records(only_sweep(tmp_path))
    status, out, _ = lab("train", *words)
    assert (status, "1/1 done (1 before)" in out) == (0, True)
    assert records(only_sweep(tmp_path)) == before


def test_a_job_that_another_process_trains_is_waited_for(sweep, sweep_here, tmp_path):
    words = ["model=bigram", "seed=1", "trainer.max_steps=2000", "eval.every=500"]
    other = sweep(*words)
    while not list(tmp_path.glob("outputs/sweeps/*/*/run.json")):
        assert other.poll() is None, other.communicate()
        time.sleep(0.05)
    outputs = [sweep_here(*words), ended(other)]
    (record,) = records(only_sweep(tmp_path)).values()
    assert record["status"] == "done"
    assert sum("step 2000/2000" in said for said in outputs) == 1
    assert all("1/1 done" in said for said in outputs)


def test_a_done_job_is_not_taken_for_that_of_another_text(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "eval.iters=2"]
    words += ["trainer.max_steps=4", "model=bigram", "seed=1,2"]
    assert lab("train", *words)[0] == 0
    before = records(only_sweep(tmp_path))
    text.write_text("another text altogether\n" * 20)
    status, out, _ = lab("train", *words)
    assert status == 2
    assert "its corpus has changed" in out
    assert records(only_sweep(tmp_path)) == before


def test_killed_is_told_apart_from_running(tmp_path):
    run = RunDirectory(tmp_path)
    (tmp_path / "run.json").write_text('{"status": "running"}')
    assert run.status == "killed"
    with run.locked():
        assert run.status == "running"


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=30),
        st.one_of(st.text(max_size=300), st.integers(), st.floats()),
        max_size=8,
    ),
    st.text("0123456789abcdef", min_size=16, max_size=16),
)
def test_names_of_jobs_are_safe_and_short(swept, fingerprint):
    name = job_name(swept, fingerprint)
    assert len(name.encode()) <= 140
    assert re.fullmatch(r"[A-Za-z0-9_,=+][A-Za-z0-9_.,=+-]*", name)
    assert name.endswith(fingerprint[:8])
    assert job_name(dict(reversed(swept.items())), fingerprint) == name


def test_a_dry_run_of_a_sweep_plans_every_job_and_leaves_no_run(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "eval.iters=1"]
    words += ["trainer.max_steps=1", "model=bigram", "seed=1,2"]
    status, out, err = lab("train", *words, "dry_run=true")
    assert (status, err) == (0, "")
    assert "Bigram, 784 parameters" in out
    assert "2 planned" in out
    assert str(only_sweep(tmp_path).relative_to(tmp_path)) in " ".join(out.split())
    assert not records(only_sweep(tmp_path))
    assert lab("train", *words)[0] == 0  # the same sweep
    assert len(records(only_sweep(tmp_path))) == 2


@pytest.mark.slow
def test_submitit_rehearses_a_cluster_on_this_machine(sweep, tmp_path):
    words = ["model=bigram", "seed=1,2", "hydra/launcher=submitit_local"]
    assert "2/2 done" in ended(sweep(*words))
    said = ended(sweep(*words, "data.block_size=99999,8"), status=2)
    assert "data.block_size=99999" in said
    found = {path.parent.name: r["status"] for path, r in each_record(tmp_path)}
    assert sorted(found.values()) == ["done"] * 4 + ["failed"] * 2


def each_record(folder: Path) -> list[tuple[Path, dict]]:
    """Every run.json of every sweep, with its path."""
    paths = sorted(folder.glob("outputs/sweeps/*/*/run.json"))
    return [(path, json.loads(path.read_text())) for path in paths]
