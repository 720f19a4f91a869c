"""Threads that wait stop spinning where others need the processors, and only there."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmlab import waiting
from lmlab.waiting import Neighbours, wait_for_threads_beside

linux = pytest.mark.skipif(not waiting.STAT.exists(), reason="there is no telling")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is put back whatever a test sets
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


@pytest.fixture
def busy_neighbour():
    """A process that keeps a processor busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    process.kill()
    process.wait()


@linux
def test_a_busy_neighbour_is_noticed(busy_neighbour):
    neighbours = Neighbours()
    time.sleep(1)
    assert neighbours.busy() > waiting.CROWDED
    wait_for_threads_beside(neighbours)
    assert os.environ["GOMP_SPINCOUNT"] == "1000"


@linux
def test_what_the_user_has_set_stays(busy_neighbour, monkeypatch):
    neighbours = Neighbours()
    time.sleep(0.5)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    wait_for_threads_beside(neighbours)
    assert "GOMP_SPINCOUNT" not in os.environ


@linux
def test_our_own_work_is_nobody_elses(tmp_path, monkeypatch):
    """Of a machine that has nothing to do but this."""
    tick = os.sysconf("SC_CLK_TCK")

    def only_us() -> None:
        used = round(waiting._used_by_us() * tick)
        (tmp_path / "stat").write_text(f"cpu  {used} 0 0 12345 67 0 0 0 0 0\ncpu0 1 2 3\n")

    monkeypatch.setattr(waiting, "STAT", tmp_path / "stat")
    only_us()
    neighbours = Neighbours()
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass
    only_us()
    assert neighbours.busy() < 0.1
    wait_for_threads_beside(neighbours)
    assert "GOMP_SPINCOUNT" not in os.environ


def test_where_there_is_no_telling_nothing_is_done(monkeypatch):
    monkeypatch.setattr(waiting, "STAT", Path("/nowhere"))
    neighbours = Neighbours()
    wait_for_threads_beside(neighbours)
    assert "GOMP_SPINCOUNT" not in os.environ
