"""Several processes that share the work, however they are started: here, by srun, by torchrun, or
by a command on each node."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from comparing import checkpoint, curves, weights
from forked import TRAIN, Forked
from lightning.fabric.utilities.distributed import _suggested_max_num_threads
from small import SMALL

import lmlab
from lmlab.config.check import check_plain
from lmlab.config.fingerprint import fingerprint
from lmlab.config.schema import Evaluate
from lmlab.core.evaluate import evaluate
from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory

GPT = ["name=test", "model=gpt", "model.n_embd=16", "model.n_layer=1", "trainer.accelerator=cpu"]
GPT += ["data.block_size=8", "data.val_fraction=0.01", "data.steps_per_batch=5", "eval.iters=2"]
GPT += ["eval.every=12", "trainer.log_every_n_steps=4", "trainer.gradient_clip_val=1.0"]
GPT += ["trainer.max_steps=24", "callbacks.sample.max_new_tokens=8"]

Child = subprocess.Popen[str] | Forked


@contextmanager
def started(
    words: Sequence[str],
    *environments: dict[str, str],
    by: Sequence[str] = (),
    script: Path = TRAIN,
) -> Iterator[list[Child]]:
    """The command once in each environment, or a script, with everything that it starts; all end
    here."""
    children: list[Child] = []
    try:
        for more in environments or ({},):
            if not by:
                children.append(Forked(words, env=more, script=script))
                continue
            children.append(
                subprocess.Popen(
                    [sys.executable, *by, str(script), *words],
                    env={**os.environ, **more},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
        yield children
    finally:
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def ended(children: Sequence[Child], seconds: float = 120) -> list[tuple[int, str]]:
    """The exit status of each, and what it said of errors."""
    until = time.monotonic() + seconds
    said = [child.communicate(timeout=max(1, until - time.monotonic()))[1] for child in children]
    return [(child.returncode, text) for child, text in zip(children, said, strict=True)]


def run(folder: Path, *words: str) -> RunDirectory:
    """One that this process starts, and has trained by as many as it says."""
    trained = lmlab.train(*words, run_dir=str(folder))
    assert trained is not None
    return RunDirectory(trained.path)


def a_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def nodes(port: str) -> list[dict[str, str]]:
    """A command on each of two machines."""
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [{**both, "NODE_RANK": str(rank)} for rank in range(2)]


def srun(port: str) -> list[dict[str, str]]:
    """What `srun --ntasks-per-node 2` tells each of its tasks."""
    both = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
    both |= {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "test", "SLURM_NODEID": "0"}
    both |= {"SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": port}
    return [{**both, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]


TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]


@pytest.fixture(scope="module")
def alone(tinyshakespeare_path, tmp_path_factory) -> RunDirectory:
    """A run of one process, with the batch of two."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return run(folder, f"corpus.path={tinyshakespeare_path}", *GPT, "data.batch_size=8")


def assert_learnt_the_same(one: RunDirectory, two: RunDirectory) -> None:
    """Sums of floats in another order: nothing else differs, neither in a curve nor in a weight."""
    for left, right in zip(curves(one), curves(two), strict=True):
        assert left.keys() == right.keys()
        for key in left:
            assert left[key] == right[key] or float(left[key]) == pytest.approx(
                float(right[key]), abs=2e-5
            )
    for name, value in weights(one).items():
        assert (value - weights(two)[name]).abs().max() < 2e-4, name


def test_two_processes_learn_what_one_does_with_a_double_batch(
    alone, tinyshakespeare_path, tmp_path
):
    words = [f"corpus.path={tinyshakespeare_path}", *GPT]
    two = run(tmp_path / "two", *words, "data.batch_size=4", "trainer=ddp")
    assert_learnt_the_same(alone, two)
    first, second = (states["cpu"] for states in checkpoint(two)["random"])
    assert not first.equal(second)  # each process drops something else


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(tinyshakespeare_path, tmp_path):
    words = [f"corpus.path={tinyshakespeare_path}", *GPT, "data.order=epochs"]
    whole = run(tmp_path / "whole", *words, "data.batch_size=8")
    part = run(tmp_path / "part", *words, "data.batch_size=8", "pause_at=17")
    more = ["data.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp"]
    assert lmlab.train(*more, run=str(part.path), pause_at=None).path == part.path
    assert_learnt_the_same(whole, part)
    state = checkpoint(part)["TextDataModule"]
    assert state == {"step": 24, "windows": 24 * 8, "windows_per_batch": 8}


def test_a_batch_may_be_shared_out_otherwise_only_where_windows_are_counted(composed, text):
    def shared(order: str, batch_size: int, devices: str) -> str:
        words = [f"data.order={order}", f"data.batch_size={batch_size}"]
        return fingerprint(composed("model=bigram", *words, f"trainer.devices={devices}"))

    assert shared("epochs", 8, "1") == shared("epochs", 4, "2") == shared("epochs", 4, "[0,1]")
    assert shared("epochs", 8, "1") != shared("epochs", 8, "2")
    assert shared("random", 8, "1") != shared("random", 4, "2")


@pytest.mark.slow
def test_two_processes_have_a_teacher_and_a_last_look_at_val(alone, tinyshakespeare_path, tmp_path):
    words = [f"corpus.path={tinyshakespeare_path}", *GPT, f"teacher.runs='{alone.path}'"]
    words += ["callbacks=dynamic", "data.val_fraction=0.001", "seed=2"]
    one = run(tmp_path / "one", *words, "data.batch_size=8")
    two = run(tmp_path / "two", *words, "data.batch_size=4", "trainer=ddp")
    assert_learnt_the_same(one, two)
    assert "val/loss_dynamic" in two.record["metrics"]


@pytest.mark.parametrize(
    "way",
    ["srun", *(pytest.param(way, marks=pytest.mark.slow) for way in ("nodes", "torchrun"))],
)
def test_processes_that_others_start_learn_it_too_in_one_directory(
    way, alone, tinyshakespeare_path, tmp_path
):
    words = [f"corpus.path={tinyshakespeare_path}", *GPT, "data.batch_size=4"]
    words += [f"output_dir={tmp_path}", "trainer=ddp"]
    port = a_port()
    if way == "nodes":
        words += ["trainer.devices=1", "trainer.num_nodes=2"]
        running = started(words, *nodes(port))
    elif way == "srun":
        running = started(words, *srun(port))
    else:
        running = started(words, by=[*TORCHRUN, f"--master-port={port}"])
    with running as children:
        for status, said in ended(children):
            assert status == 0, said
    (path,) = (tmp_path / "test").iterdir()
    assert_learnt_the_same(alone, RunDirectory(path))


@pytest.mark.slow
def test_each_job_of_a_sweep_has_helpers_of_its_own(text, tmp_path):
    """And where val is a single window, the process without one takes part as well."""
    words = ["-m", "corpus=file", f"corpus.path={text}", *SMALL, f"output_dir={tmp_path}"]
    words += ["seed=1,2", "sweep.name=two", "eval.protocol=full", "data.val_fraction=0.01"]
    words += ["trainer=ddp", "trainer.accelerator=cpu"]
    with started(words) as children:
        assert ended(children) == [(0, "")]
    records = [RunDirectory(path.parent).record for path in tmp_path.glob("sweeps/two/*/run.json")]
    assert sorted(record["swept"]["seed"] for record in records) == [1, 2]
    for record in records:
        assert record["status"] == "done"
        metrics = record["metrics"]
        assert metrics["val/loss"] == metrics["val/loss_full"]  # the same pass, at the same step


@pytest.mark.parametrize(
    "environment", [srun("1")[1], {"LOCAL_RANK": "1"}], ids=["srun", "torchrun"]
)
def test_a_sweep_is_started_once(lab, text, tmp_path, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    words = ["-m", "corpus=file", f"corpus.path={text}", *SMALL, "seed=1,2", "sweep.name=two"]
    status, _, err = lab("train", *words, "trainer=ddp")
    assert status == 2
    assert "start the sweep once" in err
    assert not list(tmp_path.rglob("run.json"))


def test_all_learn_that_the_first_has_failed(text, tmp_path):
    words = ["corpus=file", f"corpus.path={text}", *SMALL, f"run_dir={tmp_path}", "trainer=ddp"]
    words += ["trainer.accelerator=cpu"]
    (tmp_path / "run.json").write_text("{}")
    with started(words, *srun(a_port())) as children:
        for status, said in ended(children, 60):
            assert status == 2
            assert "holds a run already" in said


@pytest.mark.slow
def test_all_learn_that_another_is_not_ready(text, tmp_path):
    words = ["corpus=file", "corpus.path=${oc.env:TEXT}", *SMALL, f"run_dir={tmp_path}/run"]
    words += ["trainer=ddp", "trainer.accelerator=cpu"]
    there, not_there = srun(a_port())
    there["TEXT"], not_there["TEXT"] = str(text), str(tmp_path / "nowhere")
    with started(words, there, not_there) as children:
        for status, said in ended(children, 60):
            assert status == 2
            assert "nowhere" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_fails_in_all_processes_is_said_once(text, tmp_path):
    words = ["corpus=file", f"corpus.path={text}", *SMALL, f"run_dir={tmp_path}/run"]
    words += ["trainer=ddp", "trainer.accelerator=cpu", "optimizer=sgd", "optimizer.lr=1e38"]
    with started([*words, "trainer.max_steps=100"]) as children:
        ((status, said),) = ended(children, 60)
    assert status == 2
    assert len(said.splitlines()) == 1
    assert said.startswith("error: the loss became ")
    assert RunDirectory(tmp_path / "run").record["status"] == "failed"


ENDLESS = [*GPT, "trainer=ddp", "trainer.max_steps=100000", "checkpoint.every=1"]


@pytest.mark.parametrize(
    ("send", "signum"),
    [
        (os.killpg, signal.SIGINT),
        pytest.param(os.kill, signal.SIGTERM, marks=pytest.mark.slow),
    ],
    ids=["Ctrl-C in a terminal", "to the command"],
)
def test_a_signal_stops_all_at_the_same_step(send, signum, tinyshakespeare_path, tmp_path):
    words = [f"corpus.path={tinyshakespeare_path}", *ENDLESS, f"run_dir={tmp_path}"]
    with started(words) as children:
        until(lambda: list(tmp_path.glob("checkpoints/step-*")))
        started_by_it = trainers(children[0].pid)
        send(children[0].pid, signum)
        assert ended(children, 60) == [(128 + signum, "")]
        assert not any(map(alive, started_by_it))
    stopped = RunDirectory(tmp_path)
    assert stopped.record["status"] == "interrupted"
    assert checkpoint(stopped)["global_step"] == stopped.record["step"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("early", [True, False], ids=["before they meet", "in training"])
def test_a_helper_that_is_killed_takes_the_others_along(early, tinyshakespeare_path, tmp_path):
    this = os.getpid()

    def kill() -> None:
        if not early:
            until(lambda: list(tmp_path.glob("checkpoints/step-*")))
        until(lambda: trainers(this, rank=1))
        (helper,) = trainers(this, rank=1)
        os.kill(helper, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(LabError, match=r"^process 1 of 2 was killed by SIGKILL$"):
        run(tmp_path, f"corpus.path={tinyshakespeare_path}", *ENDLESS)
    killer.join()
    record = RunDirectory(tmp_path).record
    assert record == {} if early else record["status"] == "failed"
    assert early or "process 1 of 2" in record["error"]


@pytest.mark.slow
def test_a_script_may_train_wherever_it_stands(tinyshakespeare_path, tmp_path):
    """It is not run again by the processes that train, so it needs no `if __name__`."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, lmlab\n"
        "run = lmlab.train(*sys.argv[1:])\n"
        "print(run.path, file=sys.stderr)\n"
        "raise SystemExit(3)\n"
    )
    words = [f"corpus.path={tinyshakespeare_path}", *GPT, "trainer=ddp", f"run_dir={tmp_path}/run"]
    with started(words, script=script) as children:
        assert ended(children) == [(3, f"{tmp_path}/run\n")]


def test_nobody_outlives_the_command(tinyshakespeare_path, tmp_path):
    words = [f"corpus.path={tinyshakespeare_path}", *ENDLESS, f"run_dir={tmp_path}"]
    with started(words) as children:
        until(lambda: trainers(children[0].pid, rank=1))
        started_by_it = trainers(children[0].pid)
        os.kill(children[0].pid, signal.SIGKILL)
        until(lambda: not any(map(alive, started_by_it)))


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def trainers(pid: int, rank: int | None = None) -> list[int]:
    """The processes that `pid` has started to train a run, or the one of a rank."""
    wanted = b"\0LOCAL_RANK=" + (b"" if rank is None else b"%d\0" % rank)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if wanted in of_process(int(child), "environ")]


def of_process(pid: int, what: str) -> bytes:
    with suppress(OSError):
        return b"\0" + Path(f"/proc/{pid}/{what}").read_bytes()
    return b""


def alive(pid: int) -> bool:
    return len(of_process(pid, "cmdline")) > 1  # a zombie's is empty


@pytest.mark.parametrize(
    ("settings", "environment", "said"),
    [
        (["strategy=fsdp"], {}, "^trainer.strategy=fsdp: .*one of auto, .*ddp"),
        (["strategy=ddp_spawn", "devices=2"], {}, "^trainer.strategy=ddp_spawn: "),
        (["precision=7-true"], {}, "^trainer: .*7-true"),
        (["accelerator=quantum"], {}, "^trainer: .*quantum"),
        (["devices=none"], {}, "^trainer: .*devices"),
        (["devices=2", "num_nodes=2"], {"MASTER_PORT": "1"}, "MASTER_ADDR, NODE_RANK not set"),
        (["devices=2"], {"LOCAL_RANK": "1"}, "MASTER_PORT not set"),
        (["devices=2"], {**srun("1")[0], "SLURM_NTASKS_PER_NODE": "3"}, "devices=3"),
        (
            ["devices=1"],
            {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
            "^trainer: .*world size",
        ),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_made(
    experiment, tmp_path, monkeypatch, settings, environment, said
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LabError, match=said) as refused:
        experiment("model=bigram", *(f"trainer.{setting}" for setting in settings))
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


EVALUATED = dict.fromkeys(("stride", "dynamic_lr", "ensemble", "weights"))
EVALUATED |= {"checkpoint": "last", "accelerator": "cpu", "corpus": {}}
BATCH_SCRIPT = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "test"}
BATCH_SCRIPT |= dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SLURM_NTASKS": "2"}, []),
        ({**BATCH_SCRIPT, "SLURM_NNODES": "2"}, []),
        ({**BATCH_SCRIPT, "SLURM_NTASKS_PER_NODE": "2"}, []),
        pytest.param(
            *(BATCH_SCRIPT, ["trainer=ddp", "data.val_fraction=0.001"]), marks=pytest.mark.slow
        ),
    ],
)
def test_python_in_a_batch_script_of_several_tasks_is_by_itself(
    experiment, monkeypatch, environment, words
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = experiment("model=bigram", "trainer.accelerator=cpu", *words)
    assert run.record["status"] == "done"
    evaluate(check_plain({**EVALUATED, "run": str(run.path)}, Evaluate))


def test_a_batch_script_of_several_tasks_may_start_a_sweep(lab, text, monkeypatch):
    for name, value in BATCH_SCRIPT.items():
        monkeypatch.setenv(name, value)
    words = ["-m", "corpus=file", f"corpus.path={text}", *SMALL, "seed=1,2", "sweep.name=two"]
    status, _, err = lab("train", *words, "trainer=ddp", "trainer.accelerator=cpu", "dry_run=true")
    assert (status, err) == (0, "")


def test_tasks_of_srun_without_a_number_on_each_node_are_told_how(experiment, monkeypatch):
    for name, value in {**BATCH_SCRIPT, "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LabError, match="--ntasks-per-node=2"):
        experiment("model=bigram")


@pytest.mark.slow
def test_the_record_has_the_threads_of_the_steps(experiment, monkeypatch):
    """Lightning shares the processors out when it launches, unless somebody has."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    before, shared = torch.get_num_threads(), _suggested_max_num_threads(2)
    torch.set_num_threads(shared + 1)
    try:
        run = experiment("model=bigram", "trainer=ddp", "trainer.accelerator=cpu")
    finally:
        torch.set_num_threads(before)
    assert run.record["threads"] == shared
    assert "computed_before" not in run.record


def test_one_stream_is_for_one_process(experiment):
    with pytest.raises(LabError, match=r"^streams=global .*ask for 2"):
        experiment("model=bigram", "streams=global", "trainer.devices=2")


def test_a_plan_counts_the_processes_as_lightning_does(lab, text):
    for devices, nodes, tokens in (("1", 1, 96), ("'2'", 1, 192), ("auto", 1, 96)):
        words = ["corpus=file", f"corpus.path={text}", *SMALL, "data.batch_size=12"]
        words += [f"trainer.devices={devices}", f"trainer.num_nodes={nodes}", "dry_run=true"]
        status, out, _ = lab("train", *words)
        assert status == 0
        assert f"{tokens} tokens" in " ".join(out.split())


def test_a_node_more_is_another_experiment(composed):
    one, two = composed("model=bigram"), composed("model=bigram", "trainer.num_nodes=2")
    assert fingerprint(one) != fingerprint(two)
    del one["trainer"]["num_nodes"]  # as it was before it could be chosen
    assert fingerprint(one) == fingerprint(composed("model=bigram"))
