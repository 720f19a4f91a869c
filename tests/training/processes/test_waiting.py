"""Threads that wait stop spinning where others need the processors, and only there."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lmlab.training.processes import waiting
from lmlab.training.processes.waiting import SecondPool, Waiting

linux = pytest.mark.skipif(not waiting.STAT.exists(), reason="there is no telling")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def several_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def stat(tmp_path, monkeypatch):
    """stat(others): the machine has used so many seconds of processors for others than us."""
    tick = os.sysconf("SC_CLK_TCK")

    def write(others: float) -> None:
        used = round((waiting._used_by_us() + others) * tick)
        (tmp_path / "stat").write_text(f"cpu  {used} 0 0 12345 67 0 0 0 0 0\ncpu0 1 2 3\n")

    write(0)
    monkeypatch.setattr(waiting, "STAT", tmp_path / "stat")
    monkeypatch.setattr(waiting, "SHORTEST", 0.05)
    return write


@pytest.fixture
def crowded(stat) -> Waiting:
    """Others have been busy since it was made."""
    ours = Waiting()
    time.sleep(0.1)
    stat(1.0)
    return ours


@linux
def test_a_busy_neighbour_is_noticed():
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        ours = Waiting()
        time.sleep(1)
        assert ours.neighbours() > waiting.CROWDED
    finally:
        process.kill()
        process.wait()


def test_threads_sleep_while_others_need_the_processors_and_no_longer(crowded, stat):
    ours = crowded
    ours.settle()
    pool = ours.pool
    assert pool is not None
    assert pool.thread.is_alive()
    ours.settle()  # too soon to tell
    assert ours.pool is pool
    time.sleep(0.1)
    stat(2.0)
    ours.settle()
    assert ours.pool is pool
    time.sleep(0.1)
    stat(2.0)
    ours.settle()
    assert ours.pool is None
    assert not pool.thread.is_alive()


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_user_has_set_stays(crowded, monkeypatch, name):
    monkeypatch.setenv(name, "passive")
    crowded.settle()
    assert crowded.pool is None


def test_a_process_of_one_thread_waits_for_nobody(crowded):
    torch.set_num_threads(1)
    crowded.settle()
    assert crowded.pool is None


def test_our_own_work_is_nobody_elses(stat):
    ours = Waiting()
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass
    stat(0)
    assert ours.neighbours() < 0.1
    ours.settle()
    assert ours.pool is None


def test_where_there_is_no_telling_nothing_is_done(monkeypatch):
    monkeypatch.setattr(waiting, "STAT", Path("/nowhere"))
    monkeypatch.setattr(waiting, "SHORTEST", 0.0)
    ours = Waiting()
    ours.settle()
    assert ours.pool is None


def test_results_do_not_depend_on_it():
    x = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    before = (x @ x).softmax(1).sum()
    pool = SecondPool()
    assert torch.equal((x @ x).softmax(1).sum(), before)
    pool.end()
