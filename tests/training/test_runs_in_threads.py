"""Several threads of one process: what one trains or computes waits for what another does."""

import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same_run
from rich.console import Console
from small import TINY, train

import lmlab
from lmlab.console import shown_on
from lmlab.data.turns import own_turn
from lmlab.runs.directory import RunDirectory

GPT = ("model=gpt", "model.n_layer=1", "model.n_head=2", "model.n_embd=8", "model.dropout=0.3")
JOBS = {  # they draw from torch's default generator in each step
    "one": (*GPT, "seed=1", "data.steps_per_batch=1"),
    "two": (*GPT, "seed=2", "data.steps_per_batch=3", "optimizer=sgd", "trainer.max_steps=30"),
}


@pytest.fixture
def configs(composed, tinyshakespeare_path, tmp_path) -> dict[str, dict[str, Any]]:
    small = (f"corpus.path={tinyshakespeare_path}", *TINY, "eval.every=6")
    return {
        name: composed(*small, *words, f"run_dir={tmp_path / name}") for name, words in JOBS.items()
    }


def alone(config: dict[str, Any], folder: Path) -> RunDirectory:
    run = train({**config, "run_dir": str(folder)})
    assert run is not None
    return run


def in_threads(*calls: Any) -> list[str]:
    """Begin all while this thread has the turn; what each printed, once all have ended."""
    consoles = [Console(file=io.StringIO(), width=200) for _ in calls]

    def show(console: Console, call: Any) -> None:
        with shown_on(console):
            call()

    with own_turn():
        threads = [
            threading.Thread(target=show, args=pair) for pair in zip(consoles, calls, strict=True)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while not all("waiting" in console.file.getvalue() for console in consoles):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    for thread in threads:
        thread.join(120)
    return [console.file.getvalue() for console in consoles]


def test_runs_in_threads_are_what_they_are_alone(configs, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    printed = in_threads(*(lambda config=config: train(config) for config in configs.values()))
    assert torch.rand(3).equal(expected)
    for (name, config), said in zip(configs.items(), printed, strict=True):
        run = RunDirectory(tmp_path / name)
        assert_same_run(run, alone(config, tmp_path / f"{name}-alone"))
        lines, log = said.splitlines(), (run.path / "train.log").read_text()
        assert lines[0] == "waiting for another thread of this process, which uses the lab"
        for other in configs:
            assert (str(tmp_path / other) in said) == (other == name)
            assert (str(tmp_path / other) in log) == (other == name)
        assert "waiting" not in log


def test_whatever_uses_a_model_waits_and_leaves_the_random_numbers(
    configs, monkeypatch, tmp_path, tinyshakespeare_path
):
    monkeypatch.chdir(tmp_path)
    here = f"corpus.path={tinyshakespeare_path}"
    run = lmlab.open(alone(configs["one"], tmp_path / "one").path)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    printed = in_threads(
        lambda: train(configs["two"]),
        run.model,
        lambda: run.generate(max_new_tokens=3),
        run.evaluate,
        lambda: lmlab.sweep("model=bigram", here, seed=[1, 2], dry_run=True),
    )
    assert torch.rand(3).equal(expected)
    assert all(said.startswith("waiting for another thread") for said in printed)
    assert_same_run(RunDirectory(tmp_path / "two"), alone(configs["two"], tmp_path / "two-alone"))


def test_one_that_fails_leaves_the_other_alone(configs, tmp_path):
    configs["one"]["optimizer"]["lr"] = 1e30

    def fails() -> None:
        with pytest.raises(lmlab.LabError, match="became"):
            train(configs["one"])

    in_threads(fails, lambda: train(configs["two"]))
    assert RunDirectory(tmp_path / "one").record["status"] == "failed"
    assert "failed" in (tmp_path / "one" / "train.log").read_text()
    assert "failed" not in (tmp_path / "two" / "train.log").read_text()
    assert_same_run(RunDirectory(tmp_path / "two"), alone(configs["two"], tmp_path / "two-alone"))


def test_training_leaves_the_random_numbers_of_whoever_calls_it(configs):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(configs["one"])
    assert torch.rand(3).equal(expected)


def test_a_turn_within_a_turn_is_had_at_once():
    with own_turn(), own_turn():
        pass
