"""Several runs in one process, beside each other: each computes what it would alone."""

import io
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same_run
from rich.console import Console
from small import TINY

from lmlab.core import train
from lmlab.data.streams import Turns
from lmlab.runs.directory import Run
from lmlab.training.stopping import Interrupted, Stop

GPT = ("model=gpt", "model.n_layer=1", "model.n_head=2", "model.n_embd=8", "model.dropout=0.3")
JOBS = {  # they draw from torch's default generator in each step, and the steps take turns
    "one": (*GPT, "seed=1", "data.steps_per_batch=1"),
    "two": (*GPT, "seed=2", "data.steps_per_batch=3", "optimizer=sgd", "trainer.max_steps=30"),
    "three": ("model=head", "seed=3", "data.steps_per_batch=2"),
}


@pytest.fixture
def configs(composed, tinyshakespeare_path, tmp_path) -> dict[str, dict[str, Any]]:
    small = (f"corpus.path={tinyshakespeare_path}", *TINY, "eval.every=6")
    return {
        name: composed(*small, *words, f"run_dir={tmp_path / name}") for name, words in JOBS.items()
    }


def begin(name: str, config: dict[str, Any], **more: Any) -> threading.Thread:
    thread = threading.Thread(target=train, args=(config,), kwargs=more, name=name)
    thread.start()
    return thread


def alone(config: dict[str, Any], folder: Path) -> Run:
    run = train({**config, "run_dir": str(folder)})
    assert run is not None
    return run


def test_runs_in_threads_are_what_they_are_alone(configs, tmp_path):
    consoles = {name: Console(file=io.StringIO(), width=200) for name in configs}
    threads = [begin(name, config, console=consoles[name]) for name, config in configs.items()]
    for thread in threads:
        thread.join(120)
    for name, config in configs.items():
        run = Run(tmp_path / name)
        assert_same_run(run, alone(config, tmp_path / f"{name}-alone"))
        printed, log = consoles[name].file.getvalue(), (run.path / "train.log").read_text()
        for other in configs:
            assert (str(tmp_path / other) in printed) == (other == name)
            assert (str(tmp_path / other) in log) == (other == name)


def test_one_of_two_is_stopped_and_goes_on_later(configs, tmp_path):
    stop, stopped = Stop(), []

    def until_stopped() -> None:
        try:
            train(configs["one"], stop=stop)
        except Interrupted as interrupted:
            stopped.append(interrupted.signum)

    first = threading.Thread(target=until_stopped)
    first.start()
    second = begin("two", configs["two"])
    while not list(tmp_path.glob("one/checkpoints/step-*.ckpt")):
        time.sleep(0.01)
    stop.ask(signal.SIGINT)
    first.join(60)
    second.join(60)
    assert stopped == [signal.SIGINT]
    assert Run(tmp_path / "one").record["status"] == "interrupted"
    assert_same_run(Run(tmp_path / "two"), alone(configs["two"], tmp_path / "two-alone"))
    train({**configs["one"], "run": str(tmp_path / "one")})
    assert_same_run(Run(tmp_path / "one"), alone(configs["one"], tmp_path / "one-alone"))


def test_one_that_fails_leaves_the_other_alone(configs, tmp_path):
    configs["one"]["optimizer"]["lr"] = 1e30
    failing = threading.Thread(target=_fails, args=(configs["one"],))
    failing.start()
    second = begin("two", configs["two"])
    failing.join(60)
    second.join(60)
    assert Run(tmp_path / "one").record["status"] == "failed"
    assert "failed" in (tmp_path / "one" / "train.log").read_text()
    assert "failed" not in (tmp_path / "two" / "train.log").read_text()
    assert_same_run(Run(tmp_path / "two"), alone(configs["two"], tmp_path / "two-alone"))


def _fails(config: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="became"):
        train(config)


def test_training_leaves_the_random_numbers_of_whoever_calls_it(configs):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(configs["one"])
    assert torch.rand(3).equal(expected)


def test_turns_go_to_whoever_has_waited_longest():
    turns, order = Turns(), []
    turns.take()

    def wait(name: int) -> None:
        turns.take()
        order.append(name)
        turns.give_up()

    threads = []
    for name in range(5):
        thread = threading.Thread(target=wait, args=(name,))
        thread.start()
        threads.append(thread)
        while len(turns._queue) < name + 2:
            time.sleep(0.001)
    assert turns.wanted
    turns.give_up()
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3, 4]
    assert not turns.wanted
