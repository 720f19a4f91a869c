"""The pool and the loop over it, with jobs that train nothing: they sleep, die or are there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import joblib
import pytest
from forked import processes
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode

from lmlab.config.stored import conf_dir
from lmlab.config.words.hydra_inside import version_base
from lmlab.errors import LabError
from lmlab.sweeps.journal.journal import FOLDER, Entry, Journal, Result
from lmlab.sweeps.journal.planned import LaunchPlan
from lmlab.sweeps.launch import launching
from lmlab.sweeps.launch.launching import run_jobs
from lmlab.sweeps.launch.pool import pool_of
from lmlab.sweeps.launch.progress import Progress

CONFIG = """
defaults: [{override hydra/job_logging: none}, {override hydra/hydra_logging: none}]
name: job
seconds: 0.1
how: well
sweep: {job: null}
hydra: {output_subdir: null, sweep: {dir: '%s', subdir: .}}
"""


def job(cfg):
    """Says in the journal that it has begun, sleeps, and says that it has ended; or else."""
    entry = Entry.of(Path(), cfg.sweep.job)
    run = Path(cfg.name)
    run.mkdir(exist_ok=True)
    if cfg.how == "late":
        raise ValueError("not even begun")
    record = {"status": "running", "step": 0, "metrics": {}, "started": "2026-01-01T00:00:00+00:00"}
    (run / "run.json").write_text(json.dumps(record))
    entry.add("running", run=str(run))
    if cfg.how == "kill" or (cfg.how == "kill once" and not (run / "killed").exists()):
        (run / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.how == "stop":
        raise SystemExit(143)
    device, began = os.environ.get("CUDA_VISIBLE_DEVICES"), time.time()
    if cfg.how == "longest":  # until four others have ended
        while len(list(Path().glob("job-*/span.json"))) < 4 and time.time() - began < 60:
            time.sleep(0.05)
    time.sleep(cfg.seconds)
    (run / "span.json").write_text(json.dumps([device, began, time.time()]))
    entry.add("done", run=str(run), loss=1.0, trained=True)


@contextmanager
def launchers(folder: Path):
    """make("local", "hydra.launcher.n_jobs=3"): a launcher, set up for `job`."""
    (folder / "small.yaml").write_text(CONFIG % folder)
    shutil.copytree(conf_dir() / "hydra/launcher", folder / "hydra/launcher")
    with initialize_config_dir(str(folder), job_name="small", **version_base()):

        def make(name: str, *words: str):
            hydra = GlobalHydra.instance().hydra
            two = ["hydra.launcher.n_jobs=2"] if name in ("local", "joblib") else []
            words = (f"hydra/launcher={name}", *two, *words)
            config = hydra.compose_config("small", list(words), RunMode.MULTIRUN)
            return Plugins.instance().instantiate_launcher(
                hydra_context=HydraContext(hydra.config_loader, Callbacks()),
                task_function=job,
                config=config,
            )

        yield make


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with launchers(tmp_path) as make:
        yield make


def launch(launcher, folder: Path, jobs: list[list[str]]) -> list[Result]:
    with pool_of(launcher, len(jobs)) as pool:
        return launching.launch(pool, folder, jobs)


def jobs(*settings: str) -> list[list[str]]:
    """A job for each of "seconds=1" or "how=kill"."""
    return [[f"name=job-{i}", setting] for i, setting in enumerate(settings)]


def spans() -> list[tuple[str | None, float, float]]:
    """Of each job that ended: its device, and from when to when it slept."""
    return [tuple(json.loads(path.read_text())) for path in sorted(Path().glob("job-*/span.json"))]


def test_a_worker_is_given_the_next_job_as_soon_as_it_is_free(launcher):
    several = jobs("how=longest", *["how=well"] * 4)
    results = launch(launcher("local"), Path(), several)
    assert [result.run for result in results] == [f"job-{i}" for i in range(5)]
    (_, _, end_of_the_longest), *others = spans()
    assert all(end < end_of_the_longest for *_, end in others)
    assert not list(Path(FOLDER).iterdir())


def test_each_gpu_has_one_job_at_a_time(launcher, capfd):
    gpus = launcher("gpus", "hydra.launcher.devices=[0,3]")
    launch(gpus, Path(), jobs(*["seconds=0.2"] * 4))
    assert "GPUs 0, 3: 1 job on each at a time" in capfd.readouterr().out
    by_device = {device: [s for s in spans() if s[0] == device] for device in ("0", "3")}
    assert sum(map(len, by_device.values())) == 4
    for of_device in by_device.values():
        of_device.sort(key=lambda span: span[1])
        assert of_device
        assert all(end <= began for (*_, end), (_, began, _) in pairwise(of_device))


def test_a_killed_job_is_tried_once_more_by_itself_and_then_is_killed(launcher, capfd):
    pool = launcher("local")
    results = launch(pool, Path(), jobs("how='kill once'", "how=kill", "how=well", "how=well"))
    assert [result.status for result in results] == ["done", "killed", "done", "done"]
    out = capfd.readouterr().out
    assert "a worker died" in out
    assert "3/4 done · 1 killed" in out


@pytest.mark.parametrize("name", ["basic", "local", "joblib"])
def test_what_ends_before_it_begins_is_the_launchers_fault(launcher, name):
    with pytest.raises(LabError, match=f"={name} left out 1 of . jobs: not even begun"):
        launch(launcher(name), Path(), jobs("how=well", "how=late"))


def test_a_job_that_is_told_to_stop_stops_the_others(launcher, capfd):
    with pytest.raises(SystemExit):
        launch(launcher("local"), Path(), jobs("how=stop", "how=well"))
    assert "the sweep is interrupted; the same command goes on" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["basic", "local"])
def test_a_search_is_told_of_each_end_before_it_is_asked_for_more(launcher, name):
    said: list[int | str] = []

    def ask() -> list[str] | None:
        n = sum(isinstance(one, int) for one in said)
        if n == 5:
            return None
        said.append(n)
        return [f"name=job-{n}"]

    def tell(number: int, result: Result) -> None:
        said.append(f"{number} {result.status}")

    with pool_of(launcher(name), 2, batch=2) as pool:
        results = run_jobs(pool, Path(), ask, Progress(5), tell)
    assert [result.run for result in results] == [f"job-{n}" for n in range(5)]
    assert sorted(map(str, said)) == sorted([*"01234", *(f"{n} done" for n in range(5))])
    if name == "basic":  # by twos
        two = ["0 done", "1 done", 2, 3, "2 done", "3 done", 4, "4 done"]
        assert said == [0, 1, *two]
    assert "0 done" in said[:4] or "1 done" in said[:4]


@pytest.mark.parametrize(
    ("name", "word", "refusal"),
    [
        ("local", "n_jobs=0", "n_jobs=0: how many jobs to train at once, a whole number of at"),
        ("local", "n_jobs=-1", "n_jobs=-1: how many"),
        ("local", "n_jobs=many", "n_jobs=many: how many"),
        ("joblib", "n_jobs=0", "n_jobs=0: how many jobs to train at once, or -1"),
        ("joblib", "backend=nope", "backend=nope is not used: of joblib's settings the lab takes"),
        ("joblib", "batch_size=4", "batch_size=4 is not used"),
        ("submitit_local", "mem_gb=-1", "mem_gb=-1: give a whole number of at least 1"),
        ("submitit_local", "nodes=0", "nodes=0: give a whole number of at least 1"),
        ("gpus", "jobs_per_gpu=0", "jobs_per_gpu=0: give a whole number of at least 1"),
        ("gpus", "devices=0", r"devices=0: give a list, such as \[0,1\]"),
    ],
)
def test_settings_that_nothing_would_come_of(launcher, name, word, refusal):
    with pytest.raises(LabError, match=f"hydra.launcher.{refusal}"):
        pool_of(launcher(name, f"hydra.launcher.{word}"), 3)


@pytest.mark.parametrize("name", ["local", "joblib"])
def test_more_places_than_jobs_are_as_many_as_jobs(launcher, monkeypatch, name):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pool = pool_of(launcher(name, "hydra.launcher.n_jobs=1_000_000_000"), 3)
    assert [environment["OMP_NUM_THREADS"] for environment in pool.environments] == ["1"] * 3


def test_a_job_on_each_core_by_default(launcher, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    n = joblib.cpu_count()
    pool = pool_of(launcher("local", "hydra.launcher.n_jobs=null"), 10**6)
    assert [environment["OMP_NUM_THREADS"] for environment in pool.environments] == ["1"] * n


def test_a_sweeper_of_somebody_elses_has_its_returns_in_order(launcher):
    two = jobs("seconds=0.3", "seconds=0")
    local = launcher("local")
    with closing(Journal.create(Path(), LaunchPlan.of(2, "local"))) as journal:
        words = [[*job, f"sweep.job={journal.key(i)}"] for i, job in enumerate(two)]
        returned = local.launch(words, initial_job_idx=0)
    assert [next(iter(one.overrides)) for one in returned] == ["name=job-0", "name=job-1"]
    assert len(spans()) == 2


def _one_long_job(folder: Path) -> None:
    """By two workers, of which one has none."""
    os.chdir(folder)
    with launchers(folder) as launcher, pool_of(launcher("local"), 2) as pool:
        pids = [pool._executor(place).submit(os.getpid).result() for place in (0, 1)]
        (folder / "pids.json").write_text(json.dumps(pids))
        launching.launch(pool, Path(), jobs("seconds=600"))


@pytest.mark.slow
def test_workers_end_with_what_gave_them_jobs(tmp_path):
    launched = processes.Process(target=_one_long_job, args=(tmp_path,))
    launched.start()
    pids = json.loads(_once_there(tmp_path / "pids.json"))
    _once_there(tmp_path / "job-0/run.json")
    launched.kill()
    launched.join()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_worker_begins_with_all_imported_and_without_the_script_that_began_it(tmp_path):
    """Few scripts guard what they do by `if __name__ == "__main__"`."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from lmlab.sweeps.launch import worker\n"
        "print('once', flush=True)\n"
        "with worker.begun({'OMP_NUM_THREADS': '1', 'OF_MINE': 'yes'}) as executor:\n"
        "    has_torch = executor.submit(eval, \"'torch' in __import__('sys').modules\")\n"
        "    print(has_torch.result(), executor.submit(os.getenv, 'OF_MINE').result())\n"
        "print(os.getenv('OF_MINE'))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("once\nTrue yes\nNone\n", "")


def _once_there(path: Path) -> str:
    end = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    return path.read_text()
