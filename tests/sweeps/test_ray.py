"""A Ray cluster of two nodes, on loopback, where Ray is installed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from sweeps.conftest import ROOT, records, small_sweep

WITHOUT_RAY = find_spec("ray") is None or find_spec("hydra_plugins.hydra_ray_launcher") is None
OF_OTHERS = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WITHOUT_RAY, reason='pip install -e ".[ray]" brings Ray'),
]


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


class Cluster:
    """Nodes of one processor each, which are groups of processes."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.nodes: list[subprocess.Popen] = []
        self._add("--head", f"--port={self.port}", "--include-dashboard=false")
        wait_for(self._is_up)
        self.add()

    def _add(self, *words: str) -> None:
        small = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
        if "--head" in words:
            small.append(f"--temp-dir={self.folder}")
        # Ray takes no port of its own that its workers might take.
        ports = ["--min-worker-port=0", "--max-worker-port=0"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        with (self.folder / f"node{len(self.nodes)}").open("wb") as printed:
            node = subprocess.Popen(
                [*command, *words, *small, *ports],
                stdout=printed,
                stderr=printed,
                start_new_session=True,
                cwd=self.folder.parent,
                env={**os.environ, **OF_OTHERS},
            )
        self.nodes.append(node)

    def add(self) -> None:
        self._add(f"--address=127.0.0.1:{self.port}")
        wait_for(lambda: self._has_started(len(self.nodes) - 1))

    def _is_up(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0 and self._has_started(0)

    def _has_started(self, node: int) -> bool:
        assert self.nodes[node].poll() is None, (self.folder / f"node{node}").read_text()
        return "Ray runtime started" in (self.folder / f"node{node}").read_text()

    def kill(self, node: int) -> None:
        os.killpg(self.nodes[node].pid, signal.SIGKILL)
        self.nodes[node].wait(timeout=30)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Ray's sockets want a short path.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    started = Cluster(folder)
    try:
        yield started
    finally:
        for i, node in enumerate(started.nodes):
            if node.poll() is None:
                started.kill(i)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_node_is_killed_in_the_middle(cluster, text, tmp_path):
    words = [*small_sweep(text), "model=bigram", "seed=range(1,7)", "sweep.name=far"]
    words += ["trainer.max_steps=6000", "eval.every=200", "logger.tensorboard=false"]
    words += ["hydra/launcher=ray_cluster", f"output_dir={tmp_path}/outputs"]
    words += [f"hydra.launcher.ray.init.address=127.0.0.1:{cluster.port}"]
    folder = tmp_path / "outputs/sweeps/far"

    def command() -> subprocess.Popen:
        env = {**os.environ, **OF_OTHERS, "PYTHONPATH": str(ROOT / "src")}
        script = [sys.executable, str(ROOT / "scripts/train.py"), *words]
        return subprocess.Popen(
            script, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def at_work() -> int:
        return Counter(record["status"] for record in records(folder).values())["running"]

    first = command()
    wait_for(lambda: at_work() == 2 and len(list(folder.glob("*/checkpoints/*"))) > 4)
    cluster.kill(1)
    printed, _ = first.communicate(timeout=240)
    again = command()
    printed_again, _ = again.communicate(timeout=240)
    assert again.returncode == 0, printed + printed_again
    runs = records(folder)
    assert [record["status"] for record in runs.values()] == ["done"] * 6, printed
    assert sorted(record["swept"]["seed"] for record in runs.values()) == [1, 2, 3, 4, 5, 6]
    for path in folder.glob("*/metrics.csv"):
        steps = [int(line.partition(",")[0]) for line in path.read_text().splitlines()[1:]]
        assert steps == sorted(set(steps))  # nothing twice
        assert steps[-1] == 6000
    went_on = [path for path in folder.glob("*/train.log") if "going on from" in path.read_text()]
    assert went_on, printed
