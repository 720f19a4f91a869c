"""`make board` as a command: what it does about ports that are taken."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from boards import Board, Sweep, get

from lmlab.display.event_files import next_number, numbered
from lmlab.display.loggers import CurveWriter
from lmlab.sweeps.report.report import report

BOARD = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "board.py")]


@pytest.fixture
def taken():
    """A port that is taken, but where nothing answers yet: another board is about to begin."""
    with ExitStack() as sockets:
        for port in range(6006, 6016):
            held = sockets.enter_context(socket.socket())
            with suppress(OSError):  # someone else has it
                held.bind(("localhost", port))
        yield 6006


def test_a_port_that_is_taken_and_does_not_answer_is_passed_over(taken, tmp_path):
    pipe = subprocess.PIPE
    with subprocess.Popen([*BOARD, str(tmp_path)], stdout=pipe, stderr=pipe, text=True) as board:
        try:
            said = board.stdout.readline()
            port = int(said.split(":")[2].split("/")[0])
        finally:
            board.terminate()
            told = board.communicate(timeout=20)[1]
    assert port >= 6016
    assert "in use" not in told


def test_the_port_that_is_asked_for_is_taken(taken, tmp_path):
    command = [*BOARD, str(tmp_path), f"--port={taken}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: TensorBoard does not start: ")
    assert "port 6006" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def several(sweep, tmp_path) -> Path:
    """Runs below a folder, two of one setting, with their means; one of the runs is still going."""
    folder = shutil.copytree(sweep.folder / "sweeps" / "mixed", tmp_path / "mixed")
    again = shutil.copytree(folder / "head", folder / "head-2")
    for name in ("config.yaml", "run.json"):
        path = again / name
        path.write_text(re.sub(r"(\"?seed\"?): 1337", r"\1: 2", path.read_text()))
    report(folder, plots=False)
    return folder


def test_a_board_of_the_best_runs_is_live_and_leaves_nothing(several, sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "links"))
    (tmp_path / "links").mkdir()
    losses = {
        n: r.record["metrics"]["val/loss_full"] for n, r in sweep.runs.items() if "mixed" in n
    }
    best = [name.rpartition("/")[2] for name in sorted(losses, key=losses.__getitem__)]
    (mean,) = (path.name for path in (several / "_seed-mean").iterdir())
    twice = {"head", "head-2"} if best[0] == "head" else set()
    shown = [*sorted(twice or best[:2]), f"_seed-mean/{mean}"]
    board = Board(Sweep(several, dict.fromkeys(shown)), "--top", "2", "--reload_interval=1")
    with board as link:
        assert sorted(get(link, "runs")) == sorted(shown)
        live = several / shown[0]
        writer = CurveWriter(numbered(live, next_number(live)), purge_step=10**6)
        writer.add_scalar("new/tag", 1.0, 10**6)
        writer.close()
        deadline = time.monotonic() + 30
        while "new/tag" not in get(link, "plugin/scalars/tags")[shown[0]]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert list((tmp_path / "links").iterdir()) == []
    assert (several / shown[0] / "run.json").is_file()


def test_links_are_removed_where_a_board_is_terminated(several, tmp_path):
    (tmp_path / "links").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "links")}
    command = [*BOARD, str(several), "--top", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as board:
        said = [board.stdout.readline(), board.stdout.readline()]
        assert said[0].startswith("the best 1 of 6 runs by val/loss_full, and the mean over seeds")
        assert len(list((tmp_path / "links").iterdir())) >= 1
        board.send_signal(signal.SIGTERM)
        assert board.wait(20) == 143
    assert list((tmp_path / "links").iterdir()) == []


@pytest.mark.parametrize("n", ["0", "-3", "many", ""])
def test_a_number_of_runs_that_is_none_is_refused(tmp_path, n):
    command = [*BOARD, str(tmp_path), f"--top={n}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: argument --top: {n} is no number of runs: give 1 or more\n"
