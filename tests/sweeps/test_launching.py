"""What a sweep says while it runs, and where it is kept."""

import re
from pathlib import Path

import pytest
from small import SMALL
from sweeps.conftest import ended

from lmlab.sweeps.launch.journal import Event
from lmlab.sweeps.launch.launching import Progress


def test_a_failure_does_not_shorten_the_time_that_is_left():
    progress = Progress(total=6)
    for job, (status, seconds) in enumerate([("done", 100.0), ("failed", 1.0), ("failed", 1.0)]):
        progress.update(Event(job, "running", 0.0))
        progress.update(Event(job, status, seconds, trained=True))
    assert progress.seconds_left() == pytest.approx(300.0)


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_the_end_of_a_job_is_said_before_the_next_begins(sweep, launcher):
    one_at_once = ["hydra.launcher.n_jobs=1"] if launcher == "joblib" else []
    words = ["model=bigram", "seed=1,2,3", f"hydra/launcher={launcher}"]
    said = ended(sweep(*words, *one_at_once))
    lines = [re.match(r"kept in .*/seed=\d|done    seed=\d", line) for line in said.splitlines()]
    order = [found[0][0] + found[0][-1] for found in lines if found]
    assert order == ["k1", "d1", "k2", "d2", "k3", "d3"]


def test_a_dry_run_is_of_the_same_sweep(lab, text):
    words = ["-m", *SMALL, "corpus=file", f"corpus.path={text}", "seed=1,2"]
    status, out, _ = lab("train", *words, "dry_run=true")
    assert status == 0
    (planned,) = Path("outputs/sweeps").iterdir()
    assert str(planned) in " ".join(out.split())
    assert lab("train", *words)[0] == 0
    assert list(Path("outputs/sweeps").iterdir()) == [planned]
