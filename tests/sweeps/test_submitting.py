"""Jobs left to a cluster: stand-ins for SLURM's commands queue them, and the test is its nodes."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from sweeps.conftest import records

from lmlab.sweeps.live.watched import Watched

COMMANDS = Path(__file__).parent / "cluster"


class Cluster:
    """A queue of arrays of jobs, none of which runs before it is told to."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.states: dict[str, str] = {}
        self._note()

    def _note(self) -> None:
        lines = [f"{job}|{state}|node" for job, state in self.states.items()]
        (self.folder / "states").write_text("\n".join(lines) + "\n")

    @property
    def submitted(self) -> list[str]:
        """The jobs of all arrays, 0 and 1_0, 1_1."""
        found = []
        for script in sorted(self.folder.glob("*.script")):
            array = re.search(r"--array=0-(\d+)", script.read_text())
            tasks = range(int(array[1]) + 1) if array else [None]
            found += [script.stem if i is None else f"{script.stem}_{i}" for i in tasks]
        return found

    def note(self, job: str, state: str) -> None:
        self.states[job] = state
        self._note()

    def run(self, job: str) -> None:
        """Run one job to its end."""
        array, _, task = job.partition("_")
        alone = dict.fromkeys(("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID"), "0")
        one = dict.fromkeys(("SLURM_NTASKS", "SLURM_JOB_NUM_NODES"), "1")
        env = {**os.environ, **alone, **one, "SLURM_JOB_ID": array, "SLURM_JOB_NODELIST": "node"}
        if task:
            env |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task}
        subprocess.run(["sh", self.folder / f"{array}.script"], env=env, check=True, timeout=120)
        self.note(job, "COMPLETED")


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Cluster:
    monkeypatch.setenv("PATH", f"{COMMANDS}:{os.environ['PATH']}")
    monkeypatch.setenv("CLUSTER", str(tmp_path / "cluster"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Cluster(tmp_path / "cluster")


def test_a_sweep_is_left_to_a_cluster_and_collected(sweep_here, cluster, tmp_path):
    words = ["model=bigram", "seed=1,2", "hydra/launcher=submitit_slurm", "sweep.wait=false"]
    assert "2 planned" in sweep_here(*words, "dry_run=true", "hydra/launcher=basic")
    assert not cluster.submitted
    said = sweep_here(*words)
    assert "2 jobs: 2 submitted (2 of them now)" in said
    assert cluster.submitted == ["0_0", "0_1"]
    for job in cluster.submitted:
        cluster.note(job, "PENDING")
    (folder,) = (tmp_path / "outputs/sweeps").iterdir()
    watched = Watched(folder)
    assert (watched.look().counts, watched.look().launcher) == ({"waiting": 2}, "slurm")

    cluster.run("0_1")
    assert (watched.look().counts, watched.look().is_over) == ({"done": 1, "waiting": 1}, False)
    said = sweep_here(*words)
    assert "2 jobs: 1 done, 1 submitted\n" in said
    assert cluster.submitted == ["0_0", "0_1"]
    (done,) = records(folder).values()
    assert (done["status"], done["swept"]["seed"]) == ("done", 2)
    assert "1 run: 1 done" in said

    cluster.note("0_0", "NODE_FAIL")  # gone, without a word
    said = sweep_here(*words, "hydra.launcher.partition=short")
    assert "2 jobs: 1 done, 1 submitted (1 of them now)" in said
    assert cluster.submitted == ["0_0", "0_1", "1"]
    assert "--partition=short" in (cluster.folder / "1.script").read_text()
    assert watched.look().counts == {"done": 1, "waiting": 1}
    cluster.run("1")
    assert (watched.look().counts, watched.look().is_over) == ({"done": 2}, True)


def test_a_failure_is_said_once_and_then_tried_again(sweep_here, cluster, monkeypatch):
    words = ["model=bigram", "model._target_=misbehaving.Misbehaving", "+model.how=raise"]
    words += ["seed=1", "hydra/launcher=submitit_slurm", "sweep.wait=false"]
    sweep_here(*words)
    monkeypatch.setenv("PYTHONPATH", f"{COMMANDS.parents[2] / 'src'}:{COMMANDS.parents[1]}")
    cluster.run("0")
    said = sweep_here(*words, status=2)
    assert "this model always raises" in said
    assert "error: 1 of 1 jobs failed; the same command tries again" in said
    assert cluster.submitted == ["0"]
    assert "1 jobs: 1 submitted (1 of them now)" in sweep_here(*words)
    assert cluster.submitted == ["0", "1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra/launcher=joblib"], "the jobs of this launcher end with the command"),
        (["hydra/launcher=submitit_slurm"], "there is no SLURM here"),
        (["hydra/sweeper=optuna", "seed=1,2"], "a search learns from its results"),
    ],
)
def test_what_cannot_leave(lab, text, words, said):
    small = ["-m", "model=bigram", "corpus=file", f"corpus.path={text}", "sweep.wait=false"]
    status, _, err = lab("train", *small, "seed=1,2", *words)
    assert status == 2
    assert said in err
    assert err.count("\n") == 1


def test_a_damaged_list_of_what_was_submitted(sweep_here, cluster, tmp_path):
    words = ["model=bigram", "seed=1", "hydra/launcher=submitit_slurm", "sweep.wait=false"]
    sweep_here(*words)
    (kept,) = tmp_path.glob("outputs/sweeps/*/.launches/submitted.json")
    assert len(json.loads(kept.read_text())) == 1
    kept.write_text("[1")
    assert "submitted.json cannot be read" in sweep_here(*words, status=2)
    assert cluster.submitted == ["0"]
