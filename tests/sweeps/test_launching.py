"""What a sweep says while it runs, and where it is kept."""

import os
import re
import signal
import time

import pytest
from small import SMALL
from sweeps.conftest import ended

from lmlab.runs.directory import RunDirectory


@pytest.mark.parametrize("launcher", ["basic", pytest.param("local", marks=pytest.mark.slow)])
def test_the_end_of_a_job_is_said_before_the_next_begins(sweep, sweep_here, launcher):
    words = ["model=bigram", "seed=1,2,3", f"hydra/launcher={launcher}"]
    if launcher == "basic":
        said = sweep_here(*words)
    else:
        said = ended(sweep(*words, "hydra.launcher.n_jobs=1"))
    lines = [re.match(r"kept in .*/seed=\d|done    seed=\d", line) for line in said.splitlines()]
    order = [found[0][0] + found[0][-1] for found in lines if found]
    assert order == ["k1", "d1", "k2", "d2", "k3", "d3"]


def test_a_launcher_that_does_not_begin_is_one_line(lab, text, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # no srun
    words = [*SMALL, "corpus=file", f"corpus.path={text}", "seed=1,2"]
    status, _, err = lab("train", "-m", *words, "hydra/launcher=submitit_slurm")
    assert status == 2
    assert err == "error: hydra/launcher=submitit_slurm: there is no SLURM here (no srun)\n"


@pytest.mark.slow
def test_a_sweep_that_goes_on_by_workers_warns_of_nothing(sweep):
    words = ["model=bigram", "hydra/launcher=local", "hydra.launcher.n_jobs=2"]
    ended(sweep(*words, "seed=1,2"))
    assert "Warning" not in ended(sweep(*words, "seed=1,2,3,4,5,6"))


@pytest.mark.slow
def test_ctrl_c_lets_every_job_finish_its_step(sweep, tmp_path):
    words = ["model=bigram", "hydra/launcher=local", "hydra.launcher.n_jobs=2", "seed=1,2,3"]
    process = sweep(*words, "trainer.max_steps=100_000_000", "eval.every=2000")
    deadline = time.monotonic() + 120
    while len({p.parent for p in tmp_path.glob("outputs/sweeps/*/*/checkpoints/*.ckpt")}) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    said = ended(process, status=130)
    assert "the sweep is interrupted; the same command goes on with it" in said
    found = [RunDirectory(path.parent) for path in tmp_path.glob("outputs/sweeps/*/*/run.json")]
    assert [run.status for run in found] == ["interrupted"] * 2
