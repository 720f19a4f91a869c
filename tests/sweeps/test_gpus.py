"""A GPU for each job, with devices that are only said to be there: jobs train on the CPU."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from sweeps.conftest import ended, records

from lmlab.sweeps.launch.pool import gpus, workers_on_gpus


@pytest.mark.slow
def test_each_job_is_given_one_gpu_and_each_gpu_one_job_at_a_time(sweep, tmp_path):
    words = ["hydra/launcher=gpus", "hydra.launcher.devices=[0,3]", "seed=1,2,3"]
    said = ended(sweep("model=bigram", "model._target_=misbehaving.Device", *words))
    assert "GPUs 0, 3: 1 job on each at a time" in said
    (folder,) = (tmp_path / "outputs/sweeps").iterdir()
    assert len(records(folder)) == 3
    spans: dict[str, list[tuple[float, float]]] = {}
    for path in Path(tmp_path).glob("device-*.json"):
        noted = json.loads(path.read_text())
        spans.setdefault(noted["device"], []).append((noted["began"], noted["ended"]))
    assert set(spans) == {"0", "3"}
    assert sum(map(len, spans.values())) == 3
    for of_device in spans.values():
        of_device.sort()
        for (_, end), (begin, _) in pairwise(of_device):
            assert end <= begin


@pytest.mark.slow
def test_optuna_fills_each_gpu(sweep, tmp_path):
    words = ["hydra/launcher=gpus", "hydra.launcher.devices=[0]", "hydra.launcher.jobs_per_gpu=2"]
    words += ["hydra/sweeper=optuna", "seed=range(1,9)", "hydra.sweeper.n_trials=3"]
    said = ended(sweep("model=bigram", *words))
    assert "GPUs 0: 2 jobs on each at a time" in said
    assert "3/3 done" in said


def test_without_a_gpu_one_line_says_what_to_use(lab, text, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["corpus=file", f"corpus.path={text}", "model=bigram", "seed=1,2"]
    status, _, err = lab("train", "-m", *words, "hydra/launcher=gpus")
    assert status == 2
    assert err == (
        "error: hydra/launcher=gpus: this machine has no GPU that PyTorch sees; "
        "hydra/launcher=local trains a job on each core\n"
    )


def test_which_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5a,-1")
    assert gpus() == ["2", "GPU-5a"]
    workers = workers_on_gpus(None, None, 2, n_jobs=9)
    visible = [e["CUDA_VISIBLE_DEVICES"] for e in workers.environments]
    assert visible == ["2", "GPU-5a", "2", "GPU-5a"]
    assert len(workers_on_gpus(None, None, 10**9, n_jobs=3).environments) == 3
