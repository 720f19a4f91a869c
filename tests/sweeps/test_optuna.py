"""Searches by Optuna, trained: killed, shared, pruned, failing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from sweeps.conftest import ended, records

from lmlab.sweeps.search.storage import open_storage
from lmlab.sweeps.search.study import FILES, NAME, RUN, SWEEPER

# Optuna says so of each sampler that looks at groups; the command says nothing.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SEARCH = ["hydra/sweeper=optuna", "model=bigram"]
SEARCH += ["optimizer.lr=tag(log, interval(1e-4, 1e-1))", "seed=range(1, 9)"]
SEARCH += ["logger.tensorboard=false", "callbacks.sample.max_new_tokens=1"]

SMALL = ["corpus=file", "corpus.path=text.txt", "trainer.accelerator=cpu", "data.batch_size=4"]
SMALL += ["data.block_size=8", "eval.every=4", "eval.iters=1", "trainer.max_steps=12"]


def trials(sweep_dir: Path) -> list[FrozenTrial]:
    (path,) = (sweep_dir / name for name in FILES.values() if (sweep_dir / name).exists())
    return optuna.load_study(study_name=NAME, storage=open_storage(path)).trials


def proposed(sweep_dir: Path) -> list[dict]:
    return [trial.params for trial in trials(sweep_dir)]


@pytest.fixture
def search(lab, text, tmp_path):
    """search("a", "key=values", …): a search in this process, kept in outputs/sweeps/a."""

    def run(name: str, *words: str):
        return lab("train", "-m", *SEARCH, *SMALL, f"sweep.name={name}", *words)

    return run


@pytest.mark.parametrize("storage", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_a_killed_study_goes_on_to_exactly_its_trials(sweep, search, tmp_path, storage):
    words = ["sweep.name=a", f"hydra.sweeper.storage={storage}", "corpus.path=text.txt"]
    slow = ["trainer.max_steps=30", "eval.every=10", "data.steps_per_batch=1"]
    slow += ["hydra.sweeper.sampler.n_startup_trials=2"]  # the model has its say too
    killed = sweep(*SEARCH, *words, *slow, "hydra.sweeper.n_trials=5")
    folder = tmp_path / "outputs/sweeps/a"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        statuses = [record["status"] for record in records(folder).values()]
        if statuses.count("done") >= 2 and "running" in statuses:
            break
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before, asked = records(folder), trials(folder)
    assert 3 <= len(asked) < 5
    assert asked[-1].state == TrialState.RUNNING

    same = [f"hydra.sweeper.storage={storage}", "data.batch_size=4", *slow, "eval.iters=2"]
    assert search("a", *same, "hydra.sweeper.n_trials=5")[0] == 0
    after = trials(folder)
    assert [trial.number for trial in after] == list(range(5))
    assert {trial.state for trial in after} == {TrialState.COMPLETE}
    for trial in asked:  # the one that was being trained kept its number and its values
        assert after[trial.number].params == trial.params
    runs = records(folder)
    assert sorted(trial.user_attrs[RUN].rpartition("/")[2] for trial in after) == sorted(runs)
    for name, record in before.items():  # nothing was begun again
        assert runs[name]["started"] == record["started"]
    assert {record["step"] for record in runs.values()} == {30}

    # It proposed what a study that nobody kills proposes.
    assert search("b", *same, "hydra.sweeper.n_trials=4")[0] == 0
    assert proposed(tmp_path / "outputs/sweeps/b") == proposed(folder)[:4]


@pytest.mark.slow
def test_two_processes_on_one_study_train_exactly_its_trials(sweep, search, tmp_path):
    folder = tmp_path / "outputs/sweeps/a"
    longer = ["trainer.max_steps=24", "data.steps_per_batch=1", "eval.iters=1"]
    longer += ["hydra.sweeper.n_trials=8"]
    one = sweep(*SEARCH, "sweep.name=a", "corpus.path=text.txt", *longer)
    while not records(folder):
        assert one.poll() is None, one.communicate()
        time.sleep(0.01)
    assert search("a", *longer)[0] == 0
    ended(one)
    found = trials(folder)
    assert [trial.number for trial in found] == list(range(8))
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert len({trial.user_attrs[SWEEPER] for trial in found}) == 2
    assert len(records(folder)) == 8


def test_hopeless_trials_are_pruned_while_they_train(search, lab, tmp_path):
    words = ["optimizer.lr=1e-1,1e-7", "seed=1,2,3", "hydra/sweeper/pruner=median"]
    words += ["hydra/sweeper/sampler=grid"]
    words += ["hydra.sweeper.pruner.n_startup_trials=2", "trainer.max_steps=20"]
    status, said, err = search("a", *words)
    assert (status, err) == (0, "")
    folder = tmp_path / "outputs/sweeps/a"
    runs = records(folder)
    pruned = {name: record for name, record in runs.items() if record["status"] == "pruned"}
    assert pruned
    assert len(runs) == 6
    for name, record in pruned.items():
        assert name.startswith("lr=1e-07,")
        assert 0 < record["step"] < 20
        assert (folder / name / f"checkpoints/step-{record['step']:08}.ckpt").is_file()
        (trial,) = (t for t in trials(folder) if t.user_attrs[RUN].endswith(name))
        assert trial.state == TrialState.PRUNED
        assert trial.last_step == record["step"]
        assert trial.value == record["metrics"]["val/loss"]
    assert f"{6 - len(pruned)}/6 done · {len(pruned)} pruned" in said

    # The pruned one of a study is nobody's to finish, but a person may go on with it.
    assert search("a", *words)[0] == 0
    assert records(folder) == runs
    name = next(iter(pruned))
    assert lab("train", f"run={folder / name}")[0] == 0
    assert records(folder)[name]["status"] == "done"
    assert records(folder)[name]["step"] == 20


def test_failed_trials_are_told_so_counted_and_tried_again_when_asked(search, tmp_path):
    words = ["data.block_size=8,99999"]
    words += ["optimizer.lr=1e-3", "seed=1", "hydra/sweeper/sampler=grid", "trainer.max_steps=1"]
    status, _, err = search("a", *words)
    assert status == 2
    assert "1 of 2 jobs failed; hydra.sweeper.retry_failed=true tries them again" in err
    folder = tmp_path / "outputs/sweeps/a"
    by_size = {trial.params["data.block_size"]: trial.state for trial in trials(folder)}
    assert by_size == {"8": TrialState.COMPLETE, "99999": TrialState.FAIL}

    assert search("a", *words)[0] == 0  # nothing is left to do
    assert len(trials(folder)) == 2
    assert search("a", *words, "hydra.sweeper.retry_failed=true")[0] == 2
    assert [trial.params["data.block_size"] for trial in trials(folder)][2:] == ["99999"]


def test_a_loss_that_is_not_finite_is_a_failure(search, tmp_path):
    words = ["optimizer=sgd", "optimizer.lr=1e3", "optimizer.weight_decay=1e10", "seed=1,2"]
    status, said, _ = search("a", *words, "hydra.sweeper.n_trials=1")
    assert status == 2
    assert "became infinite or NaN" in said or "the loss became" in said
    (trial,) = trials(tmp_path / "outputs/sweeps/a")
    assert trial.state == TrialState.FAIL


SAMPLERS = {
    "tpe": ["hydra.sweeper.sampler.n_startup_trials=1"],
    "random": [],
    "cmaes": [],
    "grid": ["optimizer.lr=1e-3,1e-2"],
    "nsga2": [
        "hydra.sweeper.sampler.population_size=2",
        "hydra.sweeper.metrics=[val/loss_full,tokens]",
        "trainer.max_steps=2,4",
    ],
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "random")) for n in SAMPLERS]
)
def test_every_sampler_searches(search, tmp_path, name):
    words = [f"hydra/sweeper/sampler={name}", "trainer.max_steps=2", "eval.every=2"]
    status, said, err = search("a", *words, *SAMPLERS[name], "hydra.sweeper.n_trials=3")
    assert (status, err) == (0, "")
    found = trials(tmp_path / "outputs/sweeps/a")
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 3
    assert len({json.dumps(trial.params) for trial in found}) > 1
    for trial in found:
        record = json.loads((Path(trial.user_attrs[RUN]) / "run.json").read_text())
        assert trial.values[0] == record["metrics"]["val/loss_full"]
        assert trial.values[1:] == ([record["tokens"]] if name == "nsga2" else [])
    assert "best    trial" in said


@pytest.mark.slow
def test_a_grid_ends_by_itself(search, tmp_path):
    words = ["hydra/sweeper/sampler=grid"]
    words += ["optimizer.lr=1e-3,1e-2", "seed=range(1,2)", "trainer.max_steps=1"]
    assert search("a", *words, "hydra.sweeper.n_trials=1")[0] == 0
    assert search("a", *words)[0] == 0
    points = [(p["optimizer.lr"], p["seed"]) for p in proposed(tmp_path / "outputs/sweeps/a")]
    assert sorted(points) == [("0.001", 1), ("0.01", 1)]


def test_a_dry_run_trains_nothing_and_costs_no_trial(search, tmp_path):
    folder = tmp_path / "outputs/sweeps/a"
    few = ["hydra.sweeper.n_trials=1", "trainer.max_steps=1"]
    status, said, _ = search("a", *few, "dry_run=true")
    assert status == 0
    assert "fingerprint" in said
    assert records(folder) == {}
    assert search("a", *few)[0] == 0
    assert [trial.state for trial in trials(folder)] == [TrialState.COMPLETE]


@pytest.mark.slow
def test_trials_are_launched_as_many_at_once_as_the_launcher_runs(search, tmp_path):
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_trials=4"]
    words += ["hydra/sweeper/pruner=median"]
    status, _, err = search("a", *words)
    assert (status, err) == (0, "")
    found = trials(tmp_path / "outputs/sweeps/a")
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 4
    assert all(list(trial.intermediate_values) == [4, 8, 12] for trial in found)
    assert found[1].datetime_start < found[0].datetime_complete


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: "),
        (["hydra.sweeper.storage=redis"], "hydra.sweeper.storage='redis': "),
        (["hydra.sweeper.metrics=[val/loss_ful]"], "val/loss_ful is not in"),
        (["hydra.sweeper.metrics=[a,b]", "hydra/sweeper/pruner=median"], "pruned by their val/"),
        (["hydra.sweeper.directions=[minimize,minimize]"], "one for each of metrics="),
        (["hydra/sweeper/sampler=cmeas"], "hydra/sweeper/sampler=cmeas: no such option"),
        (["hydra.sweeper.sampler.seed=x"], "hydra.sweeper.sampler.seed='x': "),
        (["model.n_layr=1,2"], "unknown key model.n_layr"),
        (["model=bigram,haed"], "haed"),
        (["optimizer.lr=1", "seed=1"], "nothing to search"),
        (["hydra/sweeper/sampler=grid"], "needs a list"),
    ],
)
def test_a_bad_search_is_refused_in_one_line(search, words, problem):
    status, _, err = search("a", "trainer.max_steps=1", *words)
    assert status == 2
    assert problem in err
    assert len(err.splitlines()) == 1


def test_another_config_does_not_join_a_study(search):
    assert search("a", "hydra.sweeper.n_trials=1")[0] == 0
    status, _, err = search("a", "hydra.sweeper.n_trials=2", "data.batch_size=8")
    assert status == 2
    assert "cannot go on with another data.batch_size: 4 is now 8" in err


def run_python(code: str, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})


def test_starting_up_does_not_import_optuna():
    code = """
import sys
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
print([sweeper.__name__ for sweeper in Plugins.instance().discover(Sweeper)])
print({"optuna", "torch"} & {*sys.modules})
"""
    found = run_python(code)
    assert "'OptunaSweeper'" in found.stdout, found.stderr
    assert found.stdout.endswith("set()\n")


def test_without_optuna_one_line_says_what_to_install(text, tmp_path):
    code = f"""
import sys
sys.modules["optuna"] = None
sys.argv = ["train", "-m", *{[*SEARCH, *SMALL]!r}]
from lmlab import cli
cli.train()
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert found.returncode == 2
    assert found.stderr == 'error: hydra/sweeper=optuna: pip install "lmlab[sweep]" brings it\n'


WHEN = """# @package _global_
hydra:
  sweeper:
    params:
      optimizer: sgd,adamw
      size: zip(data.batch_size=[2,4],data.block_size=[4,8])
    when:
      optimizer=sgd: {optimizer.lr: "tag(log, interval(1e-2, 1))", optimizer.weight_decay: 0.0}
      optimizer=adamw: {optimizer.lr: "0.001,0.01"}
"""


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["", "hydra.sweeper.sampler.multivariate=true"])
def test_what_is_searched_may_depend_on_another_choice(lab, text, tmp_path, sampler):
    (tmp_path / "conf/sweep").mkdir(parents=True)
    (tmp_path / "conf/sweep/rates.yaml").write_text(WHEN)
    small = [word for word in SMALL if not word.startswith(("data.b", "trainer.max"))]
    words = ["--config-dir=conf", "-m", "sweep=rates", "hydra/sweeper=optuna", "model=bigram"]
    words += [*small, "trainer.max_steps=1", "hydra.sweeper.sampler.n_startup_trials=4"]
    words += ["logger.tensorboard=false", "callbacks.sample.max_new_tokens=1"]
    if sampler:
        words += [sampler, "hydra.sweeper.sampler.group=true"]

    def run(name: str, n: int) -> list[FrozenTrial]:
        status, _, err = lab("train", *words, f"sweep.name={name}", f"hydra.sweeper.n_trials={n}")
        assert (status, err) == (0, "")
        return trials(tmp_path / "outputs/sweeps" / name)

    run("a", 2)
    found = run("a", 5)  # goes on
    assert len(found) == 5
    for trial in found:
        optimizer = trial.params["optimizer"]
        assert set(trial.params) == {"optimizer", "size", f"optimizer.lr [optimizer={optimizer}]"}
        record = json.loads((Path(trial.user_attrs[RUN]) / "run.json").read_text())
        assert {"optimizer", "optimizer.lr", "data.batch_size"} <= set(record["swept"])
        assert record["swept"]["data.block_size"] == 2 * record["swept"]["data.batch_size"]
        lr = record["swept"]["optimizer.lr"]
        assert lr >= 0.01 if optimizer == "sgd" else lr in (0.001, 0.01)
        assert ("optimizer.weight_decay" in record["swept"]) == (optimizer == "sgd")
    assert {trial.params["optimizer"] for trial in found} == {"sgd", "adamw"}
    if sampler:
        assert [t.params for t in run("b", 5)] == [t.params for t in found]


@pytest.mark.slow
def test_each_place_is_filled_as_it_becomes_free_and_a_killed_study_goes_on(sweep, tmp_path):
    """The first trial outlasts several others, so a batch would wait for it."""
    words = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_jobs=2"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "model=bigram", "eval.every=100"]
    words += ["trainer.max_steps=4000,10,20,30,40,50", "hydra.sweeper.sampler.seed=1"]
    words += ["sweep.name=a", "logger.tensorboard=false", "callbacks.sample.max_new_tokens=1"]
    folder = tmp_path / "outputs/sweeps/a"
    killed = sweep(*words)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(records(folder)) < 3:
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    asked = trials(folder)
    assert 3 <= len(asked) < 6
    said = ended(sweep(*words))
    assert "2 trials at a time, each place filled as it becomes free" in said
    assert "6 of 6" not in said.splitlines()[0]
    found = trials(folder)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 6
    assert [trial.params for trial in found[: len(asked)]] == [trial.params for trial in asked]
    (long,) = (t for t in found if t.params["trainer.max_steps"] == "4000")
    short = [t for t in found if t is not long]
    overlapping = [t for t in short if long.datetime_start < t.datetime_start]
    assert all(t.datetime_complete < long.datetime_complete for t in overlapping)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_trial_only(sweep, tmp_path):
    words = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_jobs=2"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "model=bigram", "sweep.name=a"]
    words += ["model._target_=misbehaving.Misbehaving", "+model.how=no,kill", "seed=1,2"]
    said = ended(sweep(*words, "trainer.max_steps=4"), status=2)
    assert "2 of 4 jobs failed" in said
    states = {
        (trial.params["+model.how"], trial.params["seed"]): trial.state
        for trial in trials(tmp_path / "outputs/sweeps/a")
    }
    assert states == {
        **{("no", seed): TrialState.COMPLETE for seed in "12"},
        **{("kill", seed): TrialState.FAIL for seed in "12"},
    }
