"""`make board` as a command: what it does about ports that are taken."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from boards import Board, Sweep, get

from lmlab.display.for_tensorboard.event_files import next_number, numbered
from lmlab.display.loggers import CurveWriter
from lmlab.sweeps import board_command

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
    """Runs below a folder, two of one setting."""
    folder = shutil.copytree(sweep.folder / "sweeps" / "mixed", tmp_path / "mixed")
    again = shutil.copytree(folder / "head", folder / "head-2")
    for name in ("config.yaml", "run.json"):
        path = again / name
        path.write_text(re.sub(r"(\"?seed\"?): 1337", r"\1: 2", path.read_text()))
    return folder


@pytest.mark.parametrize("load_fast", [pytest.param("true", marks=pytest.mark.slow), "false"])
def test_a_board_of_the_best_runs_is_live_and_writes_nothing(several, load_fast):
    before = sorted(several.rglob("*"))
    losses = {
        path.parent.name: json.loads(path.read_text())["metrics"]["val/loss_full"]
        for path in several.glob("*/run.json")
    }
    best = sorted(losses, key=lambda name: (losses[name], name))[:2]
    flags = ["--top", "2", "--reload_interval=1", f"--load_fast={load_fast}"]
    with Board(Sweep(several, dict.fromkeys([*best, "a mean"])), *flags) as link:
        mean = next(name for name in get(link, "runs") if name.startswith("mean/"))
        assert sorted(get(link, "runs")) == sorted([*best, mean])
        losses_of_mean = get(link, "plugin/scalars/scalars", run=mean, tag="val/loss_full")
        assert losses_of_mean[0][2] == pytest.approx(losses["head"], abs=1e-12)
        live = several / best[0]
        writer = CurveWriter(numbered(live, next_number(live)), purge_step=10**6)
        writer.add_scalar("new/tag", 1.0, 10**6)
        writer.close()
        deadline = time.monotonic() + 30
        while "new/tag" not in get(link, "plugin/scalars/tags")[best[0]]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    new = set(several.rglob("*")) - set(before)
    assert {path.parent for path in new} == {live}


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["a", "--logdir=b"], "--logdir=b: the folder is a; give one of them"),
        (["--logdir", "c"], "c: no such folder of runs; train one first"),
        (["a", "--logdir_spec=x:b"], "May not specify both --logdir and --logdir_spec"),
        (["a", "--nonsense=1"], "unrecognized arguments: --nonsense=1"),
    ],
)
def test_one_folder_is_shown_in_all_tabs(tmp_path, monkeypatch, capsys, flags, problem):
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lmlab-board", *flags])
    with pytest.raises(SystemExit) as left:
        board_command.main()
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (2, "")
    assert err.startswith("error: ")
    assert problem in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("n", ["0", "-3", "many", ""])
def test_a_number_of_runs_that_is_none_is_refused(tmp_path, n):
    command = [*BOARD, str(tmp_path), f"--top={n}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: argument --top: {n} is no number of runs: give 1 or more\n"
