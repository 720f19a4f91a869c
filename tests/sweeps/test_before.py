"""A sweep gone through again: what has ended is found by the command itself."""

import pytest
from small import FOX

from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.launch import job

AGAIN = ["-m", *FOX, "sweep.name=many", "seed=1,2,3", "optimizer.lr=0.1,0.5"]


@pytest.fixture
def swept(lab, text, tmp_path, monkeypatch):
    """The runs of a sweep, and what each job varies that a later launch is given."""
    assert lab("train", *AGAIN)[0] == 0
    given, run_job = [], job.run_job

    def noted(cfg, sweep_dir, varied, *more):
        given.append(varied)
        return run_job(cfg, sweep_dir, varied, *more)

    monkeypatch.setattr(job, "run_job", noted)
    runs = sorted((tmp_path / "outputs/sweeps/many").glob("*/run.json"))
    return [RunDirectory(path.parent) for path in runs], given


def test_jobs_that_have_ended_are_given_to_no_launcher(lab, swept):
    runs, given = swept
    records = [(run.path / "run.json").read_bytes() for run in runs]
    status, out, _ = lab("train", *AGAIN)
    assert status == 0
    assert "6/6 done (6 before)" in out
    assert not given
    assert records == [(run.path / "run.json").read_bytes() for run in runs]


def test_only_those_left_are_given_to_it(lab, swept):
    runs, given = swept
    runs[0].update(status="interrupted", step=1)
    for path in runs[0].checkpoints()[:1]:
        path.unlink()
    status, out, _ = lab("train", *AGAIN, "optimizer.lr=0.1,0.5,0.7")  # and three that are new
    assert status == 0
    assert "9/9 done (5 before)" in out
    assert given == [
        {"seed": seed, "optimizer.lr": lr} for seed, lr in ((1, 0.1), (1, 0.7), (2, 0.7), (3, 0.7))
    ]
    assert runs[0].record["status"] == "done"


@pytest.mark.parametrize("what", ["config", "corpus"])
def test_what_is_no_more_what_it_was_says_so_itself(lab, swept, what, tmp_path):
    runs, given = swept
    if what == "config":
        path = runs[2].path / "config.yaml"
        path.write_text(path.read_text().replace("val_fraction: 0.1", "val_fraction: 0.2"))
        n_failed, says = 1, "holds another run"
    else:
        (tmp_path / "text.txt").write_text("another text " * 40)
        n_failed, says = 6, "its corpus has changed since"
    status, out, err = lab("train", *AGAIN)
    assert status == 2
    assert len(given) == n_failed
    assert out.count(says) == n_failed
    assert f"{n_failed} of 6 jobs failed" in err
