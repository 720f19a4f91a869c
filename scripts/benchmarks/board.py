"""Part 9: the tab Sweeps, and the means over seeds in TensorBoard's own tabs, on many runs.

Each round is a process of its own, which asks as TensorBoard and the open page do. The runs are
made here, as a sweep leaves them; what is measured is no training.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.rounds import Part, Ratio, Seconds, Table, median

SIZES = {"500 runs": (10, 10, 5), "5,000 runs": (20, 50, 5)}  # rates, widths, seeds
EVALUATIONS = 20
POLL = 2.0  # seconds between two questions of the open page
NAME = "sweeps/many"
ROUTES = {"all sweeps": "sweeps", "one sweep": "sweep", "its figures": "figures"}
# What was aimed for with 500 runs, in seconds.
AIMS = {
    "first answer": 2.0,
    "with news": 0.2,
    "unchanged": 0.01,
    "a job's end to its row": 5.0 - POLL,
}


def run(rounds: int, quick: bool) -> Part:
    """`quick`: 500 runs alone, in one round."""
    part = Part("board")
    rows: dict[str, list[str]] = {}
    for size, shape in dict(list(SIZES.items())[: 1 if quick else None]).items():
        seconds: Seconds = {}
        for _ in range(1 if quick else rounds):
            with tempfile.TemporaryDirectory() as folder:
                make_runs(Path(folder, NAME), *shape)
                for name, value in _in_a_process(folder).items():
                    seconds.setdefault(name, []).append(value)
        part.seconds[size] = seconds
        for name, values in seconds.items():
            unit = 1e6 if name.startswith("memory") else 1
            rows.setdefault(name, []).append(f"{median(values) / unit:.3g}")
        if size in list(SIZES)[:1]:
            for what, most in AIMS.items():
                # A page of one sweep asks for the sweep and for its figures.
                parts = [values for name, values in seconds.items() if name.startswith(what)]
                value = max(map(median, parts))
                part.ratios.append(Ratio(f"{size}, {what}: seconds", value, at_most=most))
    lines = [[name, *values] for name, values in rows.items()]
    columns = ["", *part.seconds]
    part.tables.append(Table("the tab Sweeps: seconds, and MB of memory", columns, lines))
    return part


def _in_a_process(folder: str) -> dict[str, float]:
    command = [sys.executable, "-c", "from benchmarks.board import tell; tell()", folder]
    here = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"it ended with {done.returncode}: {done.stderr[-1000:]}")
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


def make_runs(folder: Path, n_rates: int, n_widths: int, n_seeds: int) -> None:
    """Run directories of a sweep over rates, widths and seeds, as training leaves them."""
    from benchmarks.tasks import composed
    from lmlab.runs.directory import RunDirectory

    (folder / ".launches").mkdir(parents=True)
    RunDirectory(folder).store(composed(["model=gpt"]).model_dump())
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").unlink()
    for rate in range(1, n_rates + 1):
        for width in range(1, n_widths + 1):
            best = 1.8 + 0.01 * abs(rate - 6) + 0.5 / width
            for seed in range(1, n_seeds + 1):
                swept = {"optimizer.lr": rate * 1e-4, "model.n_embd": 8 * width, "seed": seed}
                make_run(folder / f"rate={rate},width={width},seed={seed}", text, swept, best)


def make_run(path: Path, config: str, swept: dict[str, Any], best: float) -> None:
    """One of them, done; its losses come down to about `best`."""
    path.mkdir()
    for key, value in swept.items():
        leaf = key.rpartition(".")[2]
        config = re.sub(rf"\b{leaf}: .*", f"{leaf}: {value}", config, count=1)
    (path / "config.yaml").write_text(config)
    noise = random.Random(path.name)
    lines = ["step,train/loss,train/loss_eval,train/lr,val/bpc,val/bpc_full,val/loss,val/loss_full"]
    loss = math.nan
    for i in range(EVALUATIONS + 1):
        loss = best + 2 * math.exp(-i / 4) + noise.gauss(0, 0.01)
        lines.append(f"{50 * i},{loss - 0.1},{loss - 0.05},0.001,{loss / 0.7},,{loss},")
    lines[-1] += f"{loss + 0.01}"
    (path / "metrics.csv").write_text("\n".join([*lines, ""]))
    width = swept["model.n_embd"]
    record = {
        "status": "done",
        "swept": swept,
        "choices": {"model": "gpt", "optimizer": "adamw", "corpus": "tinyshakespeare"},
        "step": 50 * EVALUATIONS,
        "metrics": {"val/loss": loss, "val/loss_full": loss + 0.01, "val/bpc_full": loss / 0.7},
        "seconds": 60 + noise.random(),
        "started": f"2026-01-01T{path.stat().st_mtime_ns % 24:02}:00:00+00:00",
        "corpus_sha256": "86c4e6aa" * 8,
        "parameters": 50 * width * width,
        "threads": 2,
        "processor": "a processor",
        "device": "cpu",
        "tokens": 768_000,
        "flops": 1e9 * width * width,
        "best": {"val/loss": loss, "step": 50 * EVALUATIONS},
    }
    (path / "run.json").write_text(json.dumps(record, indent=2))


def tell() -> None:
    """Measure, in a process that has done nothing else, and print it as JSON."""
    print(json.dumps(_measured(Path(sys.argv[1]))))


def _measured(folder: Path) -> dict[str, float]:
    from tensorboard.plugins.base_plugin import TBContext
    from werkzeug.test import Client

    from lmlab_tensorboard import SweepsPlugin

    plugin = SweepsPlugin(TBContext(logdir=str(folder), flags=SimpleNamespace(bind_all=True)))
    (app,) = plugin.get_plugin_apps().values()
    client = Client(app)

    def ask(route: str) -> tuple[float, bytes]:
        began = time.perf_counter()
        answer = client.get(f"/data/plugin/lmlab/{route}", query_string={"name": NAME})
        if answer.status_code != 200:
            raise RuntimeError(f"{route}: {answer.text}")
        return time.perf_counter() - began, answer.data

    began = time.perf_counter()
    if not plugin.is_active():
        raise RuntimeError("there is no tab")
    seconds = {"whether there is a tab": time.perf_counter() - began}
    firsts = {name: ask(route) for name, route in ROUTES.items()}
    began_to_answer = time.perf_counter() - began
    seconds |= {f"first answer, {name}": took for name, (took, _) in firsts.items()}
    seconds["first answer, all three in turn"] = began_to_answer
    unchanged = {name: ask(route)[0] for name, route in ROUTES.items()}
    seconds |= {f"unchanged, {name}": took for name, took in unchanged.items()}
    seconds["memory after the first answers"] = _memory()

    time.sleep(2 * POLL)  # the page has been open for a while
    ended = _end_one(folder / NAME)
    slowest = dict.fromkeys(ROUTES, 0.0)  # until all have the news
    told: set[str] = set()
    while told != set(ROUTES):
        for name, route in ROUTES.items():
            took, body = ask(route)
            slowest[name] = max(slowest[name], took)
            if name not in told and body != firsts[name][1]:
                told.add(name)
                if name != "all sweeps":
                    what = "row" if name == "one sweep" else "point in the figures"
                    waited = time.perf_counter() - ended
                    seconds[f"a job's end to its {what}, without the page's wait"] = waited
        time.sleep(0.05)
    seconds |= {f"with news, {name}, the slowest": took for name, took in slowest.items()}
    seconds["memory after news"] = _memory()
    return seconds | _means(folder)


def _end_one(sweep: Path) -> float:
    """Another job ends; when it did."""
    from lmlab.files import write_atomically

    (run, *_) = sweep.glob("rate=1,width=1,seed=1")
    with (run / "metrics.csv").open("a") as file:
        file.write(f"{50 * EVALUATIONS + 50},1.5,1.5,0.001,2.1,,1.5,1.5\n")
    record = json.loads((run / "run.json").read_text())
    record["metrics"]["val/loss_full"] = 1.5
    write_atomically(run / "run.json", json.dumps(record).encode())
    return time.perf_counter()


def _means(folder: Path) -> dict[str, float]:
    """What `lmlab board` does besides, for TensorBoard's own tabs."""
    from lmlab.sweeps.board.scan import Scan
    from lmlab.sweeps.tabs.means import Choice

    scan = Scan(folder)
    choice = Choice(scan)
    scan.look()
    seconds = {}
    for name in ("means over seeds, first", "means over seeds, with news"):
        began = time.perf_counter()
        choice.now()
        seconds[name] = time.perf_counter() - began
        _end_one(folder / NAME)
        scan.look()
    return seconds


def _memory() -> float:
    """What this process holds, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
