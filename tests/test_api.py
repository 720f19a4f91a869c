"""lmlab from Python: the same as the commands, and a kernel that stays whole."""

import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from comparing import assert_same_run
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from small import TINY

import lmlab
from lmlab.runs import directory as runs

HEAD = ["model=head", *TINY, "trainer.accelerator=cpu"]


@pytest.fixture
def here(monkeypatch, tmp_path, tinyshakespeare_path) -> list[str]:
    """An empty folder to work in; the corpus, as an override."""
    monkeypatch.chdir(tmp_path)
    return [f"corpus.path={tinyshakespeare_path}"]


def test_importing_it_is_cheap():
    heavy = {"torch", "lightning", "hydra", "omegaconf", "pydantic", "numpy", "pandas"}
    code = f"import sys, lmlab; assert not {heavy} & set(sys.modules); lmlab.train; lmlab.LabError"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_is_that_of_the_command(here, lab, capfd):
    status, *_ = lab("train", *HEAD, *here, "seed=2")
    assert status == 0
    (of_command,) = Path("outputs/head").iterdir()
    run = lmlab.train(*HEAD, *here, seed=2)
    assert run.status == "done"
    assert_same_run(runs.RunDirectory(of_command), runs.RunDirectory(run.path))
    assert run.record["choices"] == runs.RunDirectory(of_command).record["choices"]
    assert {p.name for p in run.path.iterdir()} == {p.name for p in of_command.iterdir()}
    capfd.readouterr()
    status, out, _ = lab("generate", f"run={run.path}", "prompt=ROMEO:", "max_new_tokens=20")
    assert status == 0
    assert run.generate("ROMEO:", 20) + "\n" == out
    assert run.evaluate()["val/loss_full"] == run.metrics["val/loss_full"]


def test_an_evaluation_in_64_bits_is_the_runs_own(here):
    run = lmlab.train(*HEAD, *here, "trainer.precision=64-true")
    assert run.evaluate()["val/loss_full"] == run.metrics["val/loss_full"]


def test_what_a_run_has(here, capfd):
    run = lmlab.train(*HEAD, *here)
    curves = run.curves()
    assert curves.index.name == "step"
    assert curves["val/loss"].dropna().index.tolist() == [0, 12, 24]
    model, tokenizer = run.model(), run.tokenizer
    idx = torch.tensor(tokenizer.encode("ROMEO:").astype("int64"))[None]
    assert not model.training
    assert model(idx).shape == (1, 6, tokenizer.vocab_size)
    assert run.model("best") is not model
    assert len(run.sample) == 8
    assert lmlab.open(str(run.path)).metrics == run.metrics
    assert f"{run.metrics['val/loss_full']:.4f}" in repr(run)
    assert "data:image/png;base64" in run._repr_html_()


def test_a_sweep_folds_its_seeds(here, capfd):
    sweep = lmlab.sweep(*HEAD, *here, seed=range(1, 3), optimizer={"lr": 1e-3}, launcher="basic")
    assert isinstance(sweep.table(), pd.DataFrame)
    assert sweep.table()["n"].tolist() == [2]
    assert len(sweep.runs) == len(sweep.run_table()) == 2
    both = lmlab.sweep(*HEAD, *here, **{"optimizer.lr": [1e-3, 1e-2], "seed": [1, 2]})
    assert both.table()["optimizer.lr"].tolist() == [1e-2, 1e-3]
    for table in (both.table(), both.run_table(), both.differences()):
        assert table["optimizer.lr"].dtype == "float64"  # not of objects, which nothing can plot
    differences = both.differences("optimizer.lr=0.001")
    assert differences["difference"].dropna().lt(0).all()
    at = both.differences(at="12steps")
    assert at["value"].gt(differences["value"]).all()
    assert both.differences(to=10)["value"].tolist() == [0, 0]
    capfd.readouterr()
    assert both.report().read_text().startswith("<!")
    assert capfd.readouterr().out == ""
    assert both.path.name in repr(both)
    assert "<table" in both._repr_html_()
    assert lmlab.open(both.path).table().equals(both.table())
    Path("other/seed").mkdir(parents=True)
    with pytest.raises(lmlab.LabError, match="neither a run nor a folder of runs; in it is seed"):
        lmlab.open("other")


WRONG = [None, "", "\0", "\ud800", "nowhere\nor", "x" * 5000, b"x", ["a"], {1: 2}, object(), True]


def assert_refused(call: Any, *args: Any, **values: Any) -> None:
    with pytest.raises(lmlab.LabError) as raised:
        call(*args, **values)
    assert str(raised.value).isprintable(), (args, values)


def test_wrong_types_are_one_line(here):
    sweep = lmlab.sweep(*HEAD, *here, seed=[1, 2])
    run = sweep.runs[0]
    with pytest.raises(lmlab.LabError, match=r"^lmlab.open='': give a folder, such as outputs/"):
        lmlab.open("")
    for wrong in WRONG:
        assert_refused(lmlab.open, wrong)
        assert_refused(lmlab.train, wrong)
        assert_refused(lmlab.sweep, wrong)
        assert_refused(lmlab.train, *HEAD, *here, seed=wrong)
        if wrong is not None:
            assert_refused(lmlab.sweep, *HEAD, *here, seed=[1, 2], launcher=wrong)
            for name in ("at", "to", "baseline", "least"):
                assert_refused(sweep.differences, **{name: wrong})
            assert_refused(run.evaluate, stride=wrong)
            assert_refused(run.generate, top_k=wrong)
        if not (isinstance(wrong, str) and len(wrong) > 255):  # a file's name
            assert_refused(run.model, wrong)
            assert_refused(run.evaluate, checkpoint=wrong)
        assert_refused(run.generate, max_new_tokens=wrong)
        assert_refused(run.evaluate, weights=[wrong])
    for name in ("to", "least"):
        assert_refused(sweep.differences, **{name: 10**400})
    for at in ("٣٠steps", "1２steps"):
        assert_refused(sweep.differences, at=at)
    assert_refused(sweep.differences, at="12steps", to=3.0)
    # A run is taken wherever its path is.
    assert lmlab.open(run).path == run.path
    alone, twice = run.evaluate(), run.evaluate(ensemble=[run], weights=np.array([1, 2]))
    assert twice["val/loss_full"] == pytest.approx(alone["val/loss_full"])
    assert run.generate(max_new_tokens=np.int64(3), seed=torch.tensor(5))


def test_values_of_numpy_torch_and_paths(here):
    sweep = lmlab.sweep(
        *HEAD,
        seed=torch.arange(1, 3),
        optimizer={"lr": np.float32(0.5)},
        run=None,
        **{"corpus.path": Path(here[0].partition("=")[2]), "name": ["${seed}"]},
    )
    assert [run.config["seed"] for run in sweep.runs] in ([1, 2], [2, 1])
    assert {run.config["name"] for run in sweep.runs} == {"${seed}"}
    assert {run.config["optimizer"]["lr"] for run in sweep.runs} == {0.5}


FIRST = """
import os, sys, warnings
import lmlab

before = os.getcwd()
sweep = lmlab.sweep(*sys.argv[2:], seed=[1, 2], launcher=sys.argv[1])
assert len(sweep.runs) == 2
assert os.getcwd() == before
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_sweep_may_be_the_first_call_of_a_process(here, launcher):
    words = [sys.executable, "-c", FIRST, launcher, *HEAD, *here]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""


def test_it_goes_on_resumes_and_branches(here):
    run = lmlab.train(*HEAD, *here, resume="auto")
    again = lmlab.train(*HEAD, *here, resume="auto")
    assert again.path == run.path
    longer = lmlab.train(**{"from": run.path, "trainer.max_steps": 36})
    assert longer.record["step"] == 36
    assert lmlab.train(run=run.path).path == run.path
    assert lmlab.train(*HEAD, *here, dry_run=True) is None
    assert len(list(Path("outputs/head").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "values", "said"),
    [
        (["model=hed"], {}, "model=hed: no such option; did you mean head?"),
        ([], {"optimizer.lrr": 3}, "unknown key optimizer.lrr; did you mean optimizer.lr?"),
        ([], {"trainer": {"max_steps": -1}}, "trainer.max_steps=-1"),
        (["seed=1,2"], {}, "seed: several values make a sweep; call lmlab.sweep"),
        (["-m"], {}, "sweep: several values make a sweep; call lmlab.sweep"),
        (["--cfg", "job"], {}, "--cfg: flags are of the command line"),
        ([], {"run": "nowhere"}, "run=nowhere: no such directory"),
    ],
)
def test_errors_are_one_line(here, capfd, words, values, said):
    with pytest.raises(lmlab.LabError) as raised:
        lmlab.train(*words, *here, **values)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_a_notebook_shows_the_message_alone_unless_asked_for_more(monkeypatch):
    error = lmlab.LabError("seed=x: not a number")
    assert error._render_traceback_() == ["LabError: seed=x: not a number"]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(NotImplementedError):  # IPython then shows the whole traceback
        error._render_traceback_()


def test_a_failed_job_is_told_once_all_are_done(here):
    with pytest.raises(lmlab.LabError, match="1 of 2 jobs failed"):
        lmlab.sweep(*HEAD, *here, **{"data.block_size": [8, 10**7]})


def test_the_process_is_afterwards_as_it_was(here):
    def state() -> dict[str, Any]:
        return {
            "handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
            "random": torch.get_rng_state().tolist(),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "environment": dict(os.environ),
            "root": list(logging.getLogger().handlers),
            "hydra": GlobalHydra.instance().hydra,
            "argv": list(sys.argv),
            "folder": Path.cwd(),
            "shows": warnings.showwarning,
            "job": JobRuntime.instance().get("name"),
            "base": VersionBase.instance().getbase(),
        }

    lmlab.train(*HEAD, *here)  # what libraries do once, they have done
    before = state()
    lmlab.train(*HEAD, *here)
    lmlab.sweep(*HEAD, *here, seed=[1, 2])
    with pytest.raises(lmlab.LabError):
        lmlab.train("model=hed")
    assert state() == before


def test_it_trains_in_a_thread(here):
    found = []
    thread = threading.Thread(target=lambda: found.append(lmlab.train(*HEAD, *here)))
    thread.start()
    thread.join(60)
    assert_same_run(
        runs.RunDirectory(found[0].path), runs.RunDirectory(lmlab.train(*HEAD, *here).path)
    )


@pytest.mark.slow
def test_in_a_notebook(here, tmp_path):
    """A real kernel: what is shown, an interruption, and a training after it."""
    small = [*HEAD, *here]
    cells = [
        f"import lmlab, os, signal, threading\nsmall = {small!r}",
        "run = lmlab.train(*small)\nrun",
        "timer = threading.Timer(0.7, lambda: os.kill(os.getpid(), signal.SIGINT))\ntimer.start()\n"
        "lmlab.train(*small, 'trainer.max_steps=1000000', name='long')",
        "lmlab.train('model=hed')",
        "again = lmlab.train(*small)\nassert again.metrics == run.metrics\n"
        "[stopped] = os.listdir('outputs/long')\nlmlab.open(f'outputs/long/{stopped}').status",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    for cell in notebook.cells[2:4]:
        cell.metadata["tags"] = ["raises-exception"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    client = nbclient.NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env=environment)
    shown = notebook.cells[1].outputs[-1]["data"]["text/html"]
    assert "data:image/png;base64" in shown
    interrupted = notebook.cells[2].outputs[-1]
    assert interrupted["ename"] == "KeyboardInterrupt"
    assert "stopped by SIGINT at step" in interrupted["evalue"]
    assert "everything is kept" in interrupted["evalue"]
    (wrong,) = notebook.cells[3].outputs
    assert [line.partition(";")[0] for line in wrong["traceback"]] == [
        "LabError: model=hed: no such option"
    ]
    assert notebook.cells[4].outputs[-1]["data"]["text/plain"] == "'interrupted'"
    printed = notebook.cells[1].outputs[0]
    assert printed["name"] == "stdout"
    assert printed["text"].splitlines()[-1].startswith("step 24/24"), printed
    told = [o for cell in notebook.cells for o in cell.outputs if o.get("name") == "stderr"]
    assert not told, told
