"""A real sweep that is killed while it is looked at, and an hour of looking at one that changes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from boards import SMALL
from playwright.sync_api import Page, Route, expect
from sweeps.board.test_runs import showed
from sweeps.made import made

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).parents[3] / "scripts"
# A board of its own process, which looks for news as often as it is told.
SERVE = """
import sys, time
from pathlib import Path
from lmlab.display.for_tensorboard.board import start
from lmlab.sweeps.board import scan
from lmlab.sweeps.board.plugin import BoardLoader
scan.SECONDS = float(sys.argv[2])
folder = Path(sys.argv[1])
flags = "--load_fast=false", "--path_prefix=/lab"
print(start(folder, *flags, first=BoardLoader(scan.Scan(folder))), flush=True)
time.sleep(3600)
"""


@contextmanager
def served(page: Page, folder: Path, seconds: float) -> Iterator[tuple[str, int]]:
    """The link to a board, and its process, which outlives the page."""
    command = [sys.executable, "-c", SERVE, str(folder), str(seconds)]
    board = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert board.stdout
        yield board.stdout.readline().partition("?")[0], board.pid
    finally:
        page.goto("about:blank")
        board.kill()
        board.wait()


def test_a_real_sweep_is_watched_killed_and_gone_on_with(page: Page, tmp_path: Path):
    """Two jobs train, one diverges; after SIGKILL the same command goes on."""
    outputs = tmp_path / "outputs"
    train = [
        *(sys.executable, str(SCRIPTS / "train.py"), "-m", "model=bigram", "sweep.name=rates"),
        *(*SMALL, f"output_dir={outputs}", "trainer.max_steps=20000", "eval.every=2000"),
        *("optimizer.lr=1e-2,1e30,1e-3", "callbacks.pictures.every=0"),
    ]
    first = made(outputs / "one", None, 2.2)
    with served(page, outputs, 0.5) as (link, _):
        sweep = subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            page.goto(f"{link}#lmlab")
            tab = page.frame_locator("iframe")
            tab.get_by_role("link", name="sweeps/rates").click(timeout=60_000)
            running = tab.get_by_role("region", name="running")
            expect(running.locator("tbody tr").first).to_contain_text("/ 20,000", timeout=60_000)
            wrong = tab.get_by_role("region", name="went wrong")
            expect(wrong).to_contain_text("became", timeout=90_000)
            sweep.send_signal(signal.SIGKILL)
        finally:
            sweep.kill()
            sweep.wait()
        expect(wrong).to_contain_text("killed", timeout=20_000)
        expect(running).to_have_count(0)
        failed = wrong.get_by_role("row", name="failed")
        failed.get_by_role("link").click()
        expect(tab.locator(".problem")).to_contain_text("became")
        again = tab.locator("dl.commands")
        expect(again).to_contain_text("train.py")
        expect(again).to_contain_text("lr=1e+30")
        expect(tab.locator("details[data-fold=log] pre")).to_be_visible()
        page.go_back()
        goes_on = subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            expect(wrong).not_to_contain_text("killed", timeout=60_000)
            board = tab.get_by_role("region", name="leaderboard")
            expect(board.locator("tbody tr").first).to_contain_text("done", timeout=90_000)
            expect(running).to_have_count(0, timeout=90_000)
        finally:
            goes_on.kill()
            goes_on.wait()
        expect(tab.locator("header .chips").first).to_contain_text("2 done")
    assert first.is_dir()


@contextmanager
def changing(runs: list[Path]) -> Iterator[None]:
    """One of the runs trains on, ten evaluations a second, and now and then shows something."""
    over = threading.Event()

    def change() -> None:
        for n in count(1):
            if over.wait(0.1):
                return
            record = json.loads((runs[0] / "run.json").read_text())
            metrics = record["metrics"] | {"val/loss_full": 2.4 + n % 7 / 100}
            (runs[0] / "new").write_text(json.dumps(record | {"step": n, "metrics": metrics}))
            (runs[0] / "new").replace(runs[0] / "run.json")
            rows = [f"{step},{3 - step / 100 - n / 1e5}," for step in range(10, 100, 10)]
            (runs[0] / "new").write_text("\n".join(["step,val/loss,train/loss", *rows, ""]))
            (runs[0] / "new").replace(runs[0] / "metrics.csv")
            if n % 10 == 0:
                showed(runs[0], 100 + n)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def faster(route: Route) -> None:
    """The tab's own pace, fifty times as fast."""
    answer = route.fetch()
    pace = "SECONDS = 2, FIGURE_SECONDS = 8, CLOCK_SECONDS = 20"
    assert pace in answer.text()
    at_once = "SECONDS = 0.02, FIGURE_SECONDS = 0.3, CLOCK_SECONDS = 1"
    route.fulfill(response=answer, body=answer.text().replace(pace, at_once))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("kind", ["sweep", "run", "side"])
def test_an_hour_of_looking_leaks_nothing(page: Page, tmp_path: Path, kind: str):
    """Memory of page and board after 500 polls of what changes all the time is what it was."""
    folder = tmp_path / "sweeps" / "rates"
    (folder / ".launches").mkdir(parents=True)
    runs = [
        made(folder, {"optimizer.lr": lr, "seed": seed}, 2.4 + lr, curve={10: 3.0, 20: 2.5})
        for lr in (0.1, 0.03, 0.01, 0.003)
        for seed in (1, 2, 3)
    ]
    for run in runs:
        showed(run, 10, 20)
    names = [f"sweeps/rates/{run.name}" for run in runs]
    sides = json.dumps([names[0], names[3], f"~{names[0]}"])
    choice = {"sweep": "sweep=sweeps%2Frates", "run": f"run={quote(names[0])}"}
    n_polls = count()
    with served(page, tmp_path, 0.1) as (link, pid), changing(runs):
        page.route("**/index.js", faster)
        page.on("response", lambda answer: "/plugin/lmlab/" in answer.url and next(n_polls))
        page.goto(f"{link}#lmlab&p.lmlab.{choice.get(kind, f'side={quote(sides)}')}")
        expect(page.frame_locator("iframe").locator(".figure svg").first).to_be_visible()
        look_on(page, n_polls, 100)
        before = memory(page, pid)
        look_on(page, n_polls, 500)
        after = memory(page, pid)
    assert after["heap"] < before["heap"] + 4e6, (before, after)
    assert after["nodes"] < before["nodes"] + 2500, (before, after)  # a page may be half drawn
    assert after["listeners"] < before["listeners"] + 300, (before, after)
    assert after["documents"] <= before["documents"], (before, after)
    assert after["board"] < before["board"] + 20e6, (before, after)


def look_on(page: Page, n_polls: "count[int]", n: int) -> None:
    until, deadline = next(n_polls) + n, time.monotonic() + 120
    while next(n_polls) < until:
        assert time.monotonic() < deadline, "the page asks for no news"
        page.wait_for_timeout(300)


def memory(page: Page, pid: int) -> dict[str, float]:
    """Of the page once its garbage is gone, and of the board; bytes and numbers."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
    metrics: Any = session.send("Performance.getMetrics")["metrics"]
    dom = session.send("Memory.getDOMCounters")
    session.detach()
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {
        "heap": next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize"),
        "nodes": dom["nodes"],
        "listeners": dom["jsEventListeners"],
        "documents": dom["documents"],
        "board": resident * os.sysconf("SC_PAGE_SIZE"),
    }
