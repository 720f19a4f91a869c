"""W&B and MLflow, really run: what they hold afterwards is what metrics.csv holds."""

import csv
import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmlab.runs.directory import SPENT_COLUMNS, RunDirectory

wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")
pytest.importorskip("mlflow")

ROOT = Path(__file__).parents[2]
SMALL = ["model=bigram", "corpus=file", "corpus.path=text.txt", "data.block_size=8"]
SMALL += ["trainer.max_steps=40", "trainer.accelerator=cpu", "trainer.log_every_n_steps=5"]
SMALL += ["eval.every=20", "eval.iters=1", "callbacks.sample.max_new_tokens=5"]
Points = dict[tuple[str, int], list[float]]  # by metric and step: one value, if all is well


def both(folder: Path) -> list[str]:
    # Absolute: in one process MLflow takes the same relative path for the same file.
    return ["logger=[wandb,mlflow]", f"output_dir={folder}/outputs"]


def at(step: int, signum: int | None = None) -> str:
    given = f"step:{step},done:done" + ("" if signum is None else f",signum:{int(signum)}")
    return f"+callbacks.at={{_target_:misbehaving.At,{given}}}"


def in_csv(run: RunDirectory) -> Points:
    with (run.path / "metrics.csv").open(newline="") as file:
        return {
            (key, int(row["step"])): [float(value)]
            for row in csv.DictReader(file)
            for key, value in row.items()
            if key not in ("step", *SPENT_COLUMNS) and value
        }


def in_wandb(run: RunDirectory) -> Points:
    points: Points = {}
    for path in wandb_files(run):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") != "history":
                continue
            row = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
            step = row.pop("trainer/global_step")
            for key, value in row.items():
                if not key.startswith("_"):
                    points.setdefault((key, step), []).append(value)
    return points


def wandb_files(run: RunDirectory) -> list[Path]:
    return sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: 7 bytes of header, then LevelDB's log format.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    data, at, content = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        content += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            yield record
            content = b""


def mlflow_run(run: RunDirectory) -> Any:
    return mlflow_client(run).get_run(run.record["trackers"]["mlflow"])


def mlflow_client(run: RunDirectory) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(run.config["logger"]["mlflow"]["tracking_uri"])


def in_mlflow(run: RunDirectory) -> Points:
    found = mlflow_run(run)
    return {
        (key, step): [m.value for m in history if m.step == step]
        for key in found.data.metrics
        for history in [mlflow_client(run).get_metric_history(found.info.run_id, key)]
        for step in {m.step for m in history}
    }


def children() -> list[str]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    return [pid for path in tasks.glob("*/children") for pid in path.read_text().split()]


@pytest.fixture
def here(lab, text, monkeypatch, tmp_path) -> Path:
    """An empty folder with a text, in which `lab` works."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as they are outside a test
def test_both_hold_what_the_csv_holds_and_leave_nothing_behind(here, lab):
    threads, processes = set(threading.enumerate()), children()
    status, out, err = lab("train", *SMALL, *both(here), "run_dir=run")
    assert (status, err) == (0, "")
    first, out = out.split("\n", 1)
    assert first.startswith("lmlab.display.trackers.MLflow: trusted")  # with a file anywhere
    said = [line for line in out.splitlines() if "wandb" in line or "mlflow" in line.lower()]
    assert [line[:10].strip() for line in said] == ["wandb", "mlflow"]  # nothing but these two
    assert set(threading.enumerate()) == threads
    assert set(children()) <= set(processes)

    run = RunDirectory(Path("run"))
    assert "WARNING" not in (run.path / "train.log").read_text()
    points = in_csv(run)
    assert len(points) > 20
    assert in_wandb(run) == points
    assert in_mlflow(run) == points

    (path,) = wandb_files(run)
    assert said[0].split() == ["wandb", "wandb", "sync", str(path.parent)]
    assert f"mlflow ui --backend-store-uri sqlite:///{here}/outputs/mlflow.db" in said[1]
    assert path.name == f"run-{run.record['trackers']['wandb']}.wandb"
    records = list(wandb_records(path))
    configs = [i for r in records for i in (*r.run.config.update, *r.config.update)]
    config = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in configs}
    assert config["data"] == run.config["data"]
    assert "logger" not in config
    assert {r.run.display_name for r in records if r.HasField("run")} == {"run"}
    found = mlflow_run(run)
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["data/block_size"] == "8"
    assert mlflow_client(run).get_experiment(found.info.experiment_id).name == "lmlab"


@pytest.mark.slow
def test_a_run_that_goes_on_goes_on_in_its_trackers(here, lab):
    status, _, err = lab("train", *SMALL, *both(here), "run_dir=run", at(30, signal.SIGTERM))
    assert (status, err) == (143, "")
    run = RunDirectory(Path("run"))
    begun = run.record["trackers"]
    assert mlflow_run(run).info.status == "KILLED"
    status, _, err = lab("train", "run=run")
    assert (status, err) == (0, "")
    assert run.record["trackers"] == begun
    points = in_csv(run)
    assert in_wandb(run) == points
    assert in_mlflow(run) == points
    assert mlflow_run(run).info.status == "FINISHED"
    first, second = wandb_files(run)
    assert first.name == second.name
    ids = {r.run.run_id for path in (first, second) for r in wandb_records(path) if r.run.run_id}
    assert ids == {begun["wandb"]}


@pytest.mark.slow
def test_a_killed_run_leaves_no_gap_and_nothing_twice(here, lab):
    words = [*SMALL, *both(here), "run_dir=run", at(30, signal.SIGKILL)]
    train = [sys.executable, str(ROOT / "scripts/train.py"), *words]
    done = subprocess.run(train, capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = RunDirectory(Path("run"))
    assert max(step for _, step in in_mlflow(run)) == 20
    assert lab("train", "run=run")[0] == 0
    points = in_csv(run)
    assert in_wandb(run) == points
    assert in_mlflow(run) == points


@pytest.mark.slow
def test_a_failed_run_shows_how_it_failed_and_mlflow_has_nothing_twice_when_it_goes_on(here, lab):
    with pytest.raises(RuntimeError, match="out of luck"):
        lab("train", *SMALL, *both(here), "run_dir=run", at(30))
    run = RunDirectory(Path("run"))
    assert mlflow_run(run).info.status == "FAILED"
    assert max(step for _, step in in_mlflow(run)) == 30
    assert lab("train", "run=run")[0] == 0
    points = in_csv(run)
    assert in_mlflow(run) == {**points, **{k: in_mlflow(run)[k] for k in points}}
    in_both = in_wandb(run)
    assert in_both.keys() == points.keys()
    twice = {key: values for key, values in in_both.items() if len(values) > 1}
    assert {step for _, step in twice} == {25, 30}  # W&B drops them once they are sent
    assert all(len(set(values)) == 1 for values in twice.values())


@pytest.mark.slow
def test_each_job_of_a_sweep_has_a_run_of_its_own(here, lab):
    status, _, err = lab("train", "-m", *SMALL, *both(here), "seed=1,2", "sweep.name=two")
    assert (status, err) == (0, "")
    runs = [RunDirectory(path.parent) for path in Path("outputs/sweeps/two").glob("*/run.json")]
    trackers = [run.record["trackers"] for run in runs]
    assert len({t["wandb"] for t in trackers}) == len({t["mlflow"] for t in trackers}) == 2
    for run in runs:
        assert in_wandb(run) == in_mlflow(run) == in_csv(run)
        assert mlflow_run(run).info.run_name == run.path.name


def test_a_logger_that_cannot_be_made_does_not_end_the_training(here, lab):
    broken = "+logger.x._target_=misbehaving.Unreachable"
    nowhere = "logger.mlflow.tracking_uri=sqlite:////proc/nowhere/mlflow.db"
    status, out, err = lab("train", *SMALL, "logger=mlflow", broken, nowhere, "run_dir=run")
    assert (status, err) == (0, "")
    said = "logger.x: misbehaving.Unreachable cannot be made: nobody there"
    assert f"{said}; training goes on without it\n" in out
    begins = Counter(line.partition(":")[0] for line in out.splitlines())
    assert begins["logger.x"] == begins["logger.mlflow"] == 1
    run = RunDirectory(Path("run"))
    assert run.record["status"] == "done"
    assert "trackers" not in run.record
    assert (run.path / "metrics.csv").is_file()


def test_a_tracker_of_ones_own_goes_on_with_its_run(here, lab):
    mine = "+logger.mine._target_=misbehaving.Shelf"
    assert lab("train", *SMALL, mine, "run_dir=run", at(30, signal.SIGTERM))[0] == 143
    run = RunDirectory(Path("run"))
    assert run.record["trackers"] == {"mine": "shelf-0"}
    assert lab("train", "run=run")[0] == 0
    assert run.record["trackers"] == {"mine": "shelf-0"}
    lines = (run.path / "shelf-0").read_text().splitlines()
    assert lines.count("config lmlab.models.bigram.Bigram") == 1
    assert "35 ['train/loss', 'train/lr']" in lines


@pytest.mark.parametrize("extra", ["wandb", "mlflow"])
def test_a_missing_extra_is_named_before_anything_is_made(here, lab, monkeypatch, extra):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == extra else find(name)
    )
    status, out, err = lab("train", *SMALL, f"logger={extra}")
    assert (status, out) == (2, "")
    assert err == f'error: logger.{extra} needs an extra: pip install "lmlab[{extra}]"\n'
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_jobs_that_begin_at_once_share_a_new_database(tmp_path):
    begin = "from pathlib import Path; from lmlab.display.trackers import MLflow; import sys;"
    begin += "logger = MLflow(Path(sys.argv[1])); logger.log_metrics({'a': 1.0}, 1);"
    begin += "logger.end('done')"
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", begin, str(tmp_path / name)], stderr=subprocess.PIPE
        )
        for name in ("one", "two")
    ]
    assert [(job.communicate(timeout=200)[1], job.returncode) for job in jobs] == [(b"", 0)] * 2
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "lmlab"]
    found = client.search_runs([experiment.experiment_id])
    assert {(run.info.run_name, run.info.status) for run in found} == {
        ("one", "FINISHED"),
        ("two", "FINISHED"),
    }
