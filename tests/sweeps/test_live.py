"""A sweep in a terminal: one table at its foot, and above it what must be kept."""

import os
import re
import signal
from collections.abc import Callable
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console
from sweeps.conftest import ROOT, small_sweep
from terminals import InTerminal

from lmlab.sweeps.live.foot import LiveTable
from lmlab.sweeps.live.table import table
from lmlab.sweeps.live.time_left import TimeLeft
from lmlab.sweeps.live.watched import JobProgress, SweepProgress

SWEEP = ROOT / "scripts/sweep.py"
ENV = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def in_terminal(tmp_path, text) -> Callable[..., InTerminal]:
    """in_terminal("model=bigram", "seed=1,2"): starts a multirun of small runs in a terminal."""

    def start(*words: str, size: tuple[int, int] = (100, 30), **env: str) -> InTerminal:
        return InTerminal([*small_sweep(text), *words], tmp_path, {**ENV, **env}, size=size)

    return start


MISBEHAVING = ["model=bigram", "model._target_=misbehaving.Misbehaving", "sweep.name=x"]


def test_a_table_stands_below_what_must_be_kept(in_terminal):
    longer = ["trainer.max_steps=2000", "eval.every=500", "data.steps_per_batch=100"]
    terminal = in_terminal(*MISBEHAVING, "+model.how=raise,loud", *longer)
    terminal.until("failed  how=raise-", "running  how=loud-", "1 failed · 1 running")
    screen = terminal.end(2)
    assert screen.count("failed  how=raise-") == 1
    assert "ValueError: this model always raises" in screen
    assert screen.count("printed by a model\n") == 1
    assert screen.count("UserWarning: a warning of a model") == 1
    assert screen.count("1/2 done · 1 failed · best ") == 1
    assert "running" not in screen  # the table is gone
    assert "step 500/2000" not in screen  # nor does each job print its own
    assert "error: 1 of 2 jobs failed; the same command tries again" in screen


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_ctrl_c_leaves_the_terminal_as_it_was(in_terminal, launcher):
    at_once = [f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2"]
    words = ["model=bigram", "seed=1,2,3", "trainer.max_steps=100_000_000", "eval.every=2000"]
    terminal = in_terminal(*words, *at_once[: 1 + (launcher == "local")])
    terminal.until("running  seed=1-", " steps/s")
    terminal.press(b"\x03")
    screen = terminal.end(130)
    assert "the sweep is interrupted; the same command goes on with it" in screen
    assert "running  seed" not in screen


@pytest.mark.slow
def test_a_killed_launch_is_told_from_another_terminal(in_terminal, tmp_path):
    words = ["model=bigram", "seed=1,2,3,4", "sweep.name=killed", "hydra/launcher=local"]
    words += ["hydra.launcher.n_jobs=2", "trainer.max_steps=3000", "eval.every=500"]
    terminal = in_terminal(*words)
    terminal.until("running  seed=1-", "running  seed=2-", "2 waiting")
    folder = tmp_path / "outputs/sweeps/killed"
    other = InTerminal([str(folder), "--watch"], tmp_path, ENV, SWEEP)
    other.until("running  seed=1-", "running  seed=2-", "2 waiting")
    os.kill(terminal.process.pid, signal.SIGKILL)
    screen = other.end(0)  # once those that were at work have ended
    assert "2 of 4 jobs have not begun" in screen
    terminal.end(-signal.SIGKILL)
    again = in_terminal(*words)
    assert "4/4 done" in again.end(0)
    assert not list((folder / ".launches").iterdir())


def test_in_a_terminal_that_cannot_draw_it_is_told_line_by_line(in_terminal):
    screen = in_terminal("model=bigram", "seed=1,2", TERM="dumb").end(0)
    assert "step 12/12" in screen
    assert re.search(r"^done    seed=1-\w+  val/loss_full \d", screen, re.MULTILINE), screen


def progress(n: int) -> SweepProgress:
    hostile = "\x1b[2J\n\u202e" + "宽" * 150
    jobs = [
        *[JobProgress(f"job-{i}", "done", loss=2.0 + i) for i in range(n)],
        JobProgress(hostile, "failed", error=hostile),
        *[JobProgress(f"seed={i}", "running", None, 50, 55.5, 1000, 2.5, 3.25) for i in range(n)],
        JobProgress(hostile, "running"),
    ]
    return SweepProgress(
        tuple(jobs), 10, 0, True, TimeLeft(90.0, True), 1.0, "x", jobs[0] if n else None
    )


@pytest.mark.parametrize("width", [20, 40, 59, 60, 89, 90, 100, 300])
@pytest.mark.parametrize("height", [3, 5, 24])
@pytest.mark.parametrize("n", [0, 1, 40])
def test_the_table_fits_into_any_terminal(width, height, n):
    console = Console(file=StringIO(), width=width, height=height, force_terminal=True)
    with console.capture() as capture:
        console.print(table(progress(n), width, height))
    written = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())
    assert "\x1b" not in written
    lines = written.splitlines()
    assert max(map(cell_len, lines)) <= width
    whole = next(i for i, line in enumerate(lines) if line.startswith(f"{n}/"))
    assert len(lines) <= max(height, len(lines) - whole + 1)
    assert "more than 1 min left" in lines[-2]


def test_a_terminal_of_no_size_is_one_of_80_columns():
    ours, theirs = os.openpty()
    sizes = []

    def make(*size: int) -> str:
        sizes.append(size)
        return "drawn"

    with os.fdopen(theirs, "w") as terminal:
        shown = LiveTable(terminal, None)
        shown.start()
        shown.draw(make)
        assert sizes == [(80, 24)]
        assert b"drawn" in os.read(ours, 1000)
        shown.stop()
    os.close(ours)


def test_what_the_table_says(tmp_path):
    console = Console(file=StringIO(), width=100)
    console.print(table(progress(1), 100, 24))
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["done", "job-0", "2.0000"]
    assert "~56/1,000  val 2.5000  3.25 steps/s" in lines[2]
    assert lines[3].split()[-1] == "begins"
    counts = "1/14 done · 1 failed · 2 running · 10 waiting"
    assert lines[-2] == f"{counts} · best 2.0000 (job-0) · more than 1 min left"
