"""Jobs left to a cluster: stand-ins for SLURM's commands queue them, and the test is its nodes."""

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from forked import Forked
from submitit.core import _submit
from sweeps.conftest import records

from lmlab.sweeps.journal.journal import FOLDER, Event, Journal
from lmlab.sweeps.launch.slurm.slurm import Place, how_they_are
from lmlab.sweeps.live.watched import Watched

SLOW = pytest.mark.slow

COMMANDS = Path(__file__).parent / "cluster"


class Cluster:
    """A queue of arrays of jobs, none of which runs before it is told to."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.states: dict[str, str] = {}
        self._note()

    def _note(self) -> None:
        lines = [f"{job}|{state}" for job, state in self.states.items()]
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

    def start(self, job: str) -> Forked:
        """Begin a job, as its script does on a node."""
        array, _, task = job.partition("_")
        alone = dict.fromkeys(("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID"), "0")
        one = dict.fromkeys(("SLURM_NTASKS", "SLURM_JOB_NUM_NODES"), "1")
        env = {**alone, **one, "SLURM_JOB_ID": array, "SLURM_JOB_NODELIST": "node"}
        env["SUBMITIT_EXECUTOR"] = "slurm"
        if task:
            env |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task}
        self.note(job, "RUNNING")
        script = (self.folder / f"{array}.script").read_text()
        assert "export SUBMITIT_EXECUTOR=slurm" in script
        submitted = re.search(r"-m submitit.core._submit (\S+)", script)
        return Forked([submitted[1]], self.folder.parent, env, Path(_submit.__file__))

    def run(self, job: str) -> None:
        """Run one job to its end."""
        assert self.start(job).wait(timeout=120) == 0
        self.note(job, "COMPLETED")

    @property
    def questions(self) -> int:
        """How often the queue was asked."""
        path = self.folder / "questions"
        return len(path.read_text().splitlines()) if path.is_file() else 0


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


LONG = ["model=bigram", "trainer.max_steps=4000", "eval.every=200", "logger.tensorboard=false"]
LONG += ["hydra/launcher=submitit_slurm", "seed=1", "sweep.name=long"]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=SLOW)])
def test_a_job_that_is_preempted_goes_on(sweep_here, cluster, tmp_path, signum):
    words = [*LONG, "sweep.wait=false"]
    sweep_here(*words)
    folder = tmp_path / "outputs/sweeps/long"
    node = cluster.start("0")
    wait_for(lambda: max(steps_in(folder), default=0) >= 400)
    node.send_signal(signum)
    assert node.wait(timeout=60) != 0
    (before,) = records(folder).values()
    assert before["step"] < 4000
    cluster.note("0", "PREEMPTED")  # as the queue says for some minutes, if at all
    said = sweep_here(*words)
    assert "1 jobs: 1 submitted (1 of them now)" in said
    assert "1 that the cluster took away go on from their last checkpoints" in said
    cluster.run("1")
    assert "1 jobs: 1 done" in sweep_here(*words)
    (log,) = folder.glob("*/train.log")
    assert re.search(r"from step [1-9]", log.read_text())
    assert steps_in(folder) == sorted(set(steps_in(folder)))  # nothing twice


def steps_in(folder: Path) -> list[int]:
    """Those of the metrics of a sweep's only run."""
    lines = [x for path in folder.glob("*/metrics.csv") for x in path.read_text().splitlines()]
    return [int(step) for line in lines if (step := line.partition(",")[0]).isdigit()]


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_put_back_once_its_checkpoint_is_written(
    sweep_here, cluster, tmp_path
):
    words = [*LONG, "sweep.wait=false"]
    sweep_here(*words)
    folder = tmp_path / "outputs/sweeps/long"
    node = cluster.start("0")
    wait_for(lambda: max(steps_in(folder), default=0) >= 400)
    node.send_signal(signal.SIGUSR2)
    node.wait(timeout=60)
    (before,) = records(folder).values()
    assert before["status"] == "interrupted"
    assert (cluster.folder / "requeued").read_text() == "0\n"
    cluster.note("0", "PENDING")
    assert "1 jobs: 1 submitted\n" in sweep_here(*words)
    cluster.run("0")
    assert "1 jobs: 1 done" in sweep_here(*words)
    assert cluster.submitted == ["0"]


def test_thousands_of_jobs_are_one_question(cluster, tmp_path):
    """And what each has said is read once."""
    places = []
    for name in ("0-a.jsonl", "0-b.jsonl"):
        (tmp_path / FOLDER).mkdir(exist_ok=True)
        journal = Journal(tmp_path / FOLDER / name)
        for number in range(1000):
            places.append(Place(name, number, f"{name[2]}_{number}"))
            if number % 2:
                journal.add(Event(number, "done", 1.0, run="r", loss=2.0, trained=True))
        cluster.states |= {p.cluster_job: "PENDING" for p in places[-1000:-1:4]}
    cluster._note()
    states = [result and result.status for result in how_they_are(tmp_path, places)]
    assert Counter(states) == {"done": 1000, "submitted": 500, None: 500}
    assert cluster.questions == 1


def test_a_queue_that_does_not_answer_loses_nothing(sweep_here, cluster):
    words = ["model=bigram", "seed=1,2", "hydra/launcher=submitit_slurm", "sweep.wait=false"]
    sweep_here(*words)
    (cluster.folder / "states").unlink()
    said = sweep_here(*words, status=2)
    assert "error: squeue does not tell of the jobs: cat:" in said
    assert cluster.submitted == ["0_0", "0_1"]


@pytest.mark.slow
def test_a_sweep_that_waits_submits_again_what_was_taken_away(
    sweep_here, cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr("lmlab.sweeps.launch.pool.LOOK_EVERY", 1.0)

    def nodes() -> None:
        """Take the first job away as it trains, and run all others to their ends."""
        for job in ("0_0", "0_1"):
            cluster.note(job, "PENDING")
        wait_for(lambda: len(cluster.submitted) == 2)
        node = cluster.start("0_0")
        wait_for(lambda: max(steps_in(folder), default=0) >= 400)
        node.send_signal(signal.SIGKILL)
        node.wait(timeout=60)
        cluster.note("0_0", "NODE_FAIL")
        cluster.note("1", "PENDING")
        wait_for(lambda: cluster.submitted == ["0_0", "0_1", "1"])
        for job in ("0_1", "1"):
            cluster.run(job)

    folder = tmp_path / "outputs/sweeps/long"
    thread = Thread(target=nodes)
    thread.start()
    said = sweep_here(*LONG, "seed=1,2")
    thread.join()
    assert "the cluster took away 1 jobs; they are submitted again, and go on" in said
    assert [record["status"] for record in records(folder).values()] == ["done", "done"]
    assert "2/2 done" in said


@pytest.mark.slow
def test_a_failure_is_said_once_and_then_tried_again(sweep_here, cluster):
    words = ["model=bigram", "model._target_=misbehaving.Misbehaving", "+model.how=raise"]
    words += ["seed=1", "hydra/launcher=submitit_slurm", "sweep.wait=false"]
    sweep_here(*words)
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
