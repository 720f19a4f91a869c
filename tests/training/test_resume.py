"""Runs that are killed, stopped, damaged or refused a place to write, and go on."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same_run, checkpoint, same, weights
from forked import Forked, processes
from small import SMALL, train
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import api_pb2, metadata

from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.training.processes.stopping import Interrupted

GPT = [
    "model=gpt",
    "model.n_embd=16",
    "model.n_layer=1",
    "model.dropout=0.1",
    "schedule=cosine",
    "schedule.warmup_steps=5",
    "data.steps_per_batch=4",
    "checkpoint.every=5",
    "trainer.max_steps=60",
    "trainer.accumulate_grad_batches=2",
]


def start(config: dict[str, Any]) -> Any:
    # With everything imported, so that a kill hits training and not the imports.
    child = processes.Process(target=train, args=(config,), daemon=True)
    child.start()
    return child


def the_run(folder: Path) -> RunDirectory:
    (path,) = folder.glob("test/*")
    return RunDirectory(path)


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def kill_and_resume(config: dict[str, Any], whole: RunDirectory, kills: int, seed: int) -> None:
    """Kill a run `kills` times at random moments, then let it end, and compare."""
    chance = random.Random(seed)
    folder = Path(config["output_dir"])
    killed = 0
    while killed < kills:
        child = start({**config, "resume": "auto"})
        until(lambda child=child: list(folder.glob("test/*/run.json")) or not child.is_alive())
        child.join(chance.uniform(0, 1.2))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            killed += 1
        else:
            assert child.exitcode == 0
            break
    child = start({**config, "resume": "auto"})
    child.join(120)
    assert child.exitcode == 0
    assert_same_run(whole, the_run(folder))


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(GPT, marks=pytest.mark.slow),
        pytest.param(
            ["model=layer_norm", "trainer.precision=bf16-mixed", "trainer.max_steps=40"],
            marks=pytest.mark.slow,
        ),
        [*GPT, "optimizer=muon", "optimizer.rules.matrices.beta2=0.95", "callbacks=ema"],
    ],
    ids=["gpt", "bf16", "muon and ema"],
)
def test_killed_run_ends_as_if_it_never_was(experiment, overrides, tmp_path):
    whole = experiment(*overrides, f"output_dir={tmp_path / 'whole'}")
    config = {**whole.config, "output_dir": str(tmp_path / "killed")}
    kill_and_resume(config, whole, kills=3, seed=1)


def _train_up_to_write(config: dict[str, Any], n: int, count: Any) -> None:
    """Train, and be killed once the n-th file is in its place; count the files."""
    from lmlab import files

    replace = files._replace

    def replace_and_die(temporary: Path, path: Path) -> None:
        replace(temporary, path)
        count.value += 1
        if count.value == n:
            os.kill(os.getpid(), signal.SIGKILL)

    files._replace = replace_and_die
    train(config)


@pytest.mark.parametrize("streams", ["separate", pytest.param("global", marks=pytest.mark.slow)])
def test_killed_behind_any_write_of_its_end_it_ends_as_if_it_never_was(
    experiment, tmp_path, streams
):
    """Five steps, evaluated every three: the end is an evaluation of its own."""
    short = ["eval.every=3", "trainer.max_steps=5", f"streams={streams}"]
    config = experiment("model=bigram", *short, f"output_dir={tmp_path / 'whole'}").config
    whole = the_run(tmp_path / "whole")

    def killed_at(n: int) -> tuple[Path, int]:
        folder, count = tmp_path / f"killed-{n}", processes.Value("i", 0)
        again = {**config, "output_dir": str(folder)}
        child = processes.Process(target=_train_up_to_write, args=(again, n, count))
        child.start()
        child.join(60)
        train({**again, "resume": "auto"})
        return folder, count.value

    _, n_writes = killed_at(0)
    at_the_end = 6  # the checkpoint of step 5 and what comes behind it
    assert n_writes > at_the_end
    for n in range(n_writes - at_the_end, n_writes + 1):
        folder, _ = killed_at(n)
        assert_same_run(whole, the_run(folder))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_killed_run_ends_as_if_it_never_was_many_times(experiment, tmp_path, seed):
    whole = experiment(*GPT, f"output_dir={tmp_path / 'whole'}")
    config = {**whole.config, "output_dir": str(tmp_path / "killed")}
    kill_and_resume(config, whole, kills=4, seed=100 + seed)


def test_killed_notebook_goes_on_with_its_one_stream(experiment, tmp_path):
    bigram = ["experiment=notebook", "name=test", "trainer.max_steps=400", "eval.every=100"]
    bigram += ["data.steps_per_batch=7", "checkpoint.every=30"]
    whole = experiment(*bigram, f"output_dir={tmp_path / 'whole'}")
    config = {**whole.config, "output_dir": str(tmp_path / "killed")}
    kill_and_resume(config, whole, kills=2, seed=3)


@pytest.mark.slow
def test_killed_compiled_run_ends_as_if_it_never_was(experiment, tmp_path):
    overrides = [*GPT, "trainer.compile=true", "schedule=constant"]
    overrides.remove("schedule=cosine")
    whole = experiment(*overrides, f"output_dir={tmp_path / 'whole'}")
    part = experiment(*overrides, f"output_dir={tmp_path / 'part'}", "trainer.max_steps=33")
    resumed = train({**whole.config, "from": str(part.path), "output_dir": str(tmp_path / "on")})
    assert same(weights(whole), weights(resumed))
    assert whole.record["metrics"] == resumed.record["metrics"]


@pytest.fixture
def launch() -> Iterator[Callable[..., Forked]]:
    """launch("model=head", …): the command, in a process that does not outlive the test."""
    children = []

    def start(*words: str) -> Forked:
        children.append(Forked(words))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def command(*words: str) -> list[str]:
    return [sys.executable, str(Path(__file__).parents[2] / "scripts/train.py"), *words]


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_signal_finishes_the_step_and_says_how_to_go_on(
    launch, tinyshakespeare_path, tmp_path, signum
):
    words = [f"corpus.path={tinyshakespeare_path}", "name=test", "trainer.accelerator=cpu", *GPT]
    words += ["trainer.max_steps=500", "eval.every=250", "data.steps_per_batch=250"]
    words += ["data.val_fraction=0.01", "eval.iters=2", "data.block_size=8", "data.batch_size=4"]
    child = launch(*words, f"output_dir={tmp_path / 'cut'}")
    until(lambda: list((tmp_path / "cut").glob("test/*/events*[0-9]")))
    time.sleep(0.3)
    sent = time.monotonic()
    child.send_signal(signum)
    out, err = child.communicate(timeout=30)
    assert time.monotonic() - sent < 20  # a second or two, where nobody else is busy
    assert (child.returncode, err) == (128 + signum, "")
    run = the_run(tmp_path / "cut")
    assert re.search(rf"continue  \S*python \S*scripts/train.py run={run.path}", out)
    assert run.record["status"] == "interrupted"
    step = run.record["step"]
    assert step == checkpoint(run)["global_step"]
    assert 0 < step < 500
    config = {**run.config, "run": str(run.path)}
    whole = train({**run.config, "output_dir": str(tmp_path / "whole")})
    assert_same_run(whole, train(config))


def test_sigterm_within_an_evaluation_is_an_interruption(experiment, tmp_path):
    stop = f"{{_target_:misbehaving.SigtermInEvaluation,step:24,done:'{tmp_path}/done'}}"
    words = [*GPT, "eval.protocol=full", f"+callbacks.stop={stop}"]
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        experiment(*words)
    run = the_run(tmp_path)
    assert run.record["status"] == "interrupted"
    resumed = train({**run.config, "run": str(run.path)})
    whole = experiment(*words, f"output_dir={tmp_path / 'whole'}")  # it is sent only once
    assert_same_run(whole, resumed)


def test_second_interrupt_ends_at_once(launch, tinyshakespeare_path, tmp_path):
    words = [f"corpus.path={tinyshakespeare_path}", "name=test", "trainer.accelerator=cpu"]
    # One optimizer step takes many seconds here, so that the first signal is still waiting.
    words += ["trainer.accumulate_grad_batches=5000", f"output_dir={tmp_path}"]
    words += ["model=layer_norm", "data.steps_per_batch=1"]
    child = launch(*words)
    until(lambda: list(tmp_path.glob("test/*/events*[0-9]")))
    time.sleep(1.0)
    child.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert child.poll() is None
    sent = time.monotonic()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=10)
    assert child.returncode == 130
    assert time.monotonic() - sent < 1


def test_damaged_checkpoint_is_reported_and_the_one_before_is_used(experiment, capsys):
    run = experiment(*GPT)
    run.update(status="killed")
    newest, before = run.checkpoints()
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    newest.write_bytes(content)
    resumed = train({**run.config, "run": str(run.path)})
    said = capsys.readouterr().out
    assert f"{newest} is damaged" in said
    assert f"going on from step {int(before.stem[5:])}" in said
    assert resumed.record["step"] == 60


def test_no_whole_checkpoint_is_an_error_and_none_at_all_is_a_fresh_start(experiment):
    run = experiment("model=bigram")
    run.update(status="killed")
    config = {**run.config, "run": str(run.path)}
    for path in run.checkpoints():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LabError, match="none of its 2 checkpoints is whole"):
        train(config)
    for path in run.checkpoints():
        path.unlink()
    assert train(config).record["step"] == 24


def test_another_config_cannot_go_on_and_every_difference_is_named(experiment):
    run = experiment("model=bigram")
    config = {**run.config, "run": str(run.path), "seed": 3}
    config["optimizer"] = {**config["optimizer"], "lr": 0.5}
    with pytest.raises(LabError, match=r"optimizer.lr: 0.001 is now 0.5; seed: 1337 is now 3"):
        train(config)
    longer = {**run.config, "run": str(run.path)}
    longer["trainer"] = {**longer["trainer"], "max_steps": 48}
    with pytest.raises(LabError, match=r"trainer.max_steps: 24 is now 48.*from=<run>"):
        train(longer)
    fully = {**run.config, "run": str(run.path), "eval": {**run.config["eval"], "protocol": "full"}}
    with pytest.raises(LabError, match=r"eval\.protocol: 'random' is now 'full'"):
        train(fully)


def test_what_may_change_does_not_change_the_weights(experiment, tmp_path):
    words = [*GPT, "eval.every=20"]
    whole = experiment(*words, f"output_dir={tmp_path / 'whole'}")
    cut = experiment(*words, f"output_dir={tmp_path / 'cut'}", "checkpoint.keep=3")
    for path in cut.checkpoints()[:-1]:
        path.unlink()
    cut.update(status="interrupted")
    config = json.loads(json.dumps({**cut.config, "run": str(cut.path)}))
    config["trainer"]["log_every_n_steps"] = 7
    config["data"]["steps_per_batch"] = 11
    config["checkpoint"] = {"keep": 1, "every": None, "minutes": None}
    config["callbacks"]["pictures"]["every"] = 0
    assert same(weights(whole), weights(train(config)))


def test_resume_auto_finds_its_own_run_and_no_other(experiment, tmp_path):
    first = experiment("model=bigram", "resume=auto")
    assert experiment("model=bigram", "resume=auto").path == first.path
    other = experiment("model=bigram", "resume=auto", "seed=2")
    assert other.path != first.path
    longer = experiment("model=bigram", "resume=auto", "trainer.max_steps=30")
    assert longer.path != first.path
    assert "parent" not in longer.record  # from its first step on
    assert first.config["trainer"]["max_steps"] == 24


def test_two_processes_never_train_in_one_directory(experiment):
    run = experiment("model=bigram")
    run.update(status="killed")
    config = {**run.config, "run": str(run.path)}
    with run.locked(), pytest.raises(LabError, match="is being trained by another process"):
        train(config)
    assert train(config).record["status"] == "done"


def test_run_killed_between_its_config_and_its_record_begins(experiment, tmp_path):
    whole = experiment("model=bigram", f"output_dir={tmp_path / 'whole'}")
    run = RunDirectory(tmp_path / "killed")
    run.path.mkdir()
    run.store(whole.config)
    assert_same_run(whole, train({**whole.config, "run": str(run.path)}))
    assert run.record["fingerprint"] == whole.record["fingerprint"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_is_done_has_told_tensorboard(composed, tinyshakespeare_path, tmp_path, when):
    """Killed where the record is to say done: it says so of no run whose board does not."""
    config = composed(
        f"corpus.path={tinyshakespeare_path}",
        f"output_dir={tmp_path}",
        *("model=bigram", "trainer.max_steps=2", "eval.iters=1", "data.val_fraction=0.01"),
    )
    child = processes.Process(target=train_killed_when_done, args=(config, when), daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    run = the_run(tmp_path)
    assert run.status == ("killed" if when == "before" else "done")
    assert ended(run) == [api_pb2.STATUS_SUCCESS]
    train({**config, "run": str(run.path)})
    assert run.status == "done"
    assert ended(run) == [api_pb2.STATUS_SUCCESS]


def train_killed_when_done(config: dict[str, Any], when: str) -> None:
    update = RunDirectory.update

    def update_and_die(self, **fields):
        if fields.get("status") != "done":
            return update(self, **fields)
        if when == "after":
            update(self, **fields)
        os.kill(os.getpid(), signal.SIGKILL)

    RunDirectory.update = update_and_die
    train(config)


def ended(run: RunDirectory) -> list[int]:
    """The ends that TensorBoard is told of."""
    found = []
    for path in run.path.glob("events*.end"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == metadata.SESSION_END_INFO_TAG:
                    content = value.metadata.plugin_data.content
                    found.append(metadata.parse_session_end_info_plugin_data(content).status)
    return found


def test_what_killed_writes_left_goes_when_the_run_goes_on(experiment):
    run = experiment("model=bigram")
    run.update(status="interrupted")
    left = [run.path / ".run.json.0123abcd", run.path / "checkpoints/.step-00000012.ckpt.k3x9vab_"]
    for path in left:
        path.write_bytes(b"half")
    train({**run.config, "run": str(run.path)})
    assert not any(path.exists() for path in left)


def test_the_checkpoint_is_read_once(experiment, monkeypatch):
    run = experiment("model=bigram")
    run.checkpoints()[0].unlink()
    run.update(status="interrupted", step=12)
    loaded = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: loaded.append(a) or load(*a, **k))
    assert train({**run.config, "run": str(run.path)}).record["step"] == 24
    assert len(loaded) == 1


@pytest.mark.parametrize("how", ["move", "delete"])
@pytest.mark.parametrize("step", [2, 3], ids=["while training", "at the end"])
def test_a_run_whose_directory_goes_away_ends_with_an_error(lab, text, how, step):
    words = [*SMALL, "eval.every=2", "trainer.max_steps=3", "corpus=file", f"corpus.path={text}"]
    away = f"+callbacks.away={{_target_:misbehaving.Away,step:{step},how:{how}}}"
    status, _, err = lab("train", *words, "run_dir=here", away)
    assert status == 2
    assert err == "error: run=here is gone: it was moved or deleted while it was trained\n"
    assert not Path("here").exists()  # nothing is begun in its place
    if how == "move":
        status, _, err = lab("train", "run=moved")
        assert (status, err) == (0, "")
        assert RunDirectory(Path("moved")).record["step"] == 3


def test_full_disk_keeps_the_earlier_checkpoint(composed, tinyshakespeare_path, tmp_path):
    config = composed(
        f"corpus.path={tinyshakespeare_path}",
        f"output_dir={tmp_path}",
        *GPT,
        "eval.every=10",
        "eval.iters=1",
        "data.block_size=8",
    )
    child = processes.Process(
        target=train_on_a_disk_that_fills, args=(config, tmp_path / "said"), daemon=True
    )
    child.start()
    child.join(60)
    said = (tmp_path / "said").read_text()
    assert "cannot write" in said
    assert "File too large" in said
    run = the_run(tmp_path)
    assert checkpoint(run)["global_step"] == 10
    assert not list(run.path.rglob(".step*"))
    assert train({**config, "run": str(run.path)}).record["status"] == "done"


def train_on_a_disk_that_fills(config: dict[str, Any], said: Path) -> None:
    """No file may grow beyond a size that only checkpoints reach, once there is one."""
    from lmlab.training import callbacks

    save = callbacks.Checkpoints.save

    def save_then_fill(self, *args, **kwargs):
        save(self, *args, **kwargs)
        size = self.run.checkpoints()[0].stat().st_size - 1000
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    callbacks.Checkpoints.save = save_then_fill
    config["checkpoint"]["every"] = None
    try:
        train(config)
    except LabError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        said.write_text(str(error))


@pytest.mark.slow
def test_two_processes_killed_end_as_if_they_never_were(tinyshakespeare_path, tmp_path):
    words = [f"corpus.path={tinyshakespeare_path}", "name=test", *GPT, "trainer=ddp"]
    words += ["trainer.accelerator=cpu", "data.val_fraction=0.01", "eval.iters=2"]
    words += ["data.block_size=8", "eval.every=50", "trainer.max_steps=400"]

    def begin(folder: str) -> subprocess.Popen:
        begun = list((tmp_path / folder).glob("test/*"))
        here = [f"run={begun[0]}"] if begun else [*words, f"output_dir={tmp_path / folder}"]
        return subprocess.Popen(command(*here), start_new_session=True)

    def end(child: subprocess.Popen) -> None:
        try:
            assert child.wait(120) == 0
        finally:
            kill_group(child)

    end(begin("whole"))
    for checkpoints in (2, 1):
        child = begin("killed")
        before = set((tmp_path / "killed").glob("test/*/checkpoints/step*"))
        until(lambda old=before, n=checkpoints: newer(tmp_path / "killed", old) >= n)
        kill_group(child)
    end(begin("killed"))
    assert_same_run(the_run(tmp_path / "whole"), the_run(tmp_path / "killed"))


def newer(folder: Path, before: set[Path]) -> int:
    return len(set(folder.glob("test/*/checkpoints/step*")) - before)


def kill_group(child: subprocess.Popen) -> None:
    """Kill a process and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(experiment):
    """Its evaluation before the first step has been written already."""
    whole, other = (experiment("model=head") for _ in range(2))
    for path in other.checkpoints():
        path.unlink()
    other.best.unlink()
    other.update(status="running", step=0)
    assert_same_run(whole, train({**other.config, "run": str(other.path)}))
