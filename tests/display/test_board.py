"""`make board` as a command: what it does about ports that are taken."""

import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

BOARD = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "board.py")]

pytestmark = pytest.mark.xdist_group("board")


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
