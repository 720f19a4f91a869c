"""The sweeps in conf/sweep, and how a sweep gets its name."""

import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import setup_globals
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmlab.cli import conf_dir
from lmlab.config.words.axes import Axes, every_row
from lmlab.config.words.command_line import CommandLine
from lmlab.config.words.hydra_inside import version_base

SWEEPS = conf_dir() / "sweep"
NAMES = [path.relative_to(SWEEPS).with_suffix("").as_posix() for path in SWEEPS.rglob("*.yaml")]
GRIDS = sorted(name for name in NAMES if name != "tune")

KEYS = st.sampled_from(
    ["seed", "model", "experiment", "optimizer.lr", "data.batch_size", "model.n_layer"]
)


def jobs_of(name: str) -> list[list[str]]:
    """What the grid sweeper makes of a named sweep."""
    setup_globals()
    with initialize_config_dir(str(conf_dir()), **version_base()):
        cfg = compose("train", [f"sweep={name}", "sweep.name=any"], return_hydra_config=True)
        node = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
        return list(Axes.parse(node["params"], node["when"], [], None, cfg).jobs(every_row))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "modern")) for n in GRIDS]
)
def test_every_job_of_a_named_sweep_is_a_valid_experiment(composed, name):
    jobs = jobs_of(name)
    assert len(jobs) == len({tuple(job) for job in jobs})
    assert all(any(word.startswith("seed=") for word in job) for job in jobs)
    # Another seed, rate or number of steps makes no difference to what is checked, nor do others
    # beside what was checked already.
    numbers, checked = ("seed=", "optimizer.lr=", "trainer.max_steps="), set[str]()
    for job in jobs:
        words = {w.partition("=")[0] if w.startswith(numbers) else w for w in job}
        if words - checked:
            composed(f"sweep={name}", *job)
            checked |= words


def test_each_update_rule_has_learning_rates_of_its_own():
    found: dict[str, set[str]] = {}
    for job in jobs_of("optimizers"):
        values = dict(word.split("=") for word in job)
        found.setdefault(values["optimizer"], set()).add(values["optimizer.lr"])
    assert set(found) == {"sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw"}
    assert {len(rates) for rates in found.values()} == {5}
    assert found["sgd"] != found["adam"]


def test_each_size_of_the_scaling_sweep_spends_a_budget_to_the_step():
    """Four layers of 12 n_embd² weights and 9 n_embd gains; 768 tokens a step."""
    budgets: dict[float, set[int]] = {}
    for job in jobs_of("scaling"):
        values = {key: int(value) for key, value in (word.split("=") for word in job)}
        n_embd, steps = values["model.n_embd"], values["trainer.max_steps"]
        compute = 6 * (48 * n_embd**2 + 9 * n_embd) * 768 * steps
        budget = min((1e11, 3e11, 1e12, 3e12, 1e13), key=lambda b: abs(b / compute - 1))
        assert compute == pytest.approx(budget, rel=0.5 / steps + 1e-9)
        assert values["model.n_head"] == n_embd / 16
        budgets.setdefault(budget, set()).add(n_embd)
    assert len(budgets) == 5
    assert all(len(sizes) >= 3 for sizes in budgets.values())


@pytest.mark.parametrize(
    ("arguments", "swept", "name"),
    [
        (["-m", "model=bigram,head", "seed=1,2"], {"model", "seed"}, "model,seed"),
        (["seed=1,2", "-m", "model=bigram,head"], {"model", "seed"}, "model,seed"),
        (
            ["-m", "optimizer.lr=1,2", "experiment=lecture/head"],
            {"optimizer.lr"},
            "lr,lecture-head-HASH",
        ),
        (["sweep=ladder", "hydra/launcher=joblib", "output_dir=/x"], set(), "ladder"),
        (["sweep=ladder", "trainer.max_steps=9"], set(), "ladder-HASH"),
        (["sweep=ladder", "dry_run=true"], set(), "ladder"),
        (["-m", "run_dir=x/${seed}", "model=head", "data.batch_size=8"], set(), "sweep-HASH"),
        (["-m", "sweep.fail_fast=true", "hydra.sweeper.n_trials=3"], set(), "sweep"),
    ],
)
def test_the_sweep_is_named_by_its_command(arguments, swept, name):
    typed = CommandLine.parse(arguments, texts=())
    assert typed.is_multirun
    assert typed.swept == swept
    assert re.sub("-[0-9a-f]{6}$", "-HASH", typed.sweep_name) == name


@given(
    st.dictionaries(KEYS, st.sampled_from(["1", "1,2", "a/b", "x" * 40, "1e-3,1e-2"]), max_size=5)
)
def test_what_differs_between_runs_stands_near_the_front_of_their_names(words):
    typed = CommandLine.parse(["-m", *(f"{key}={value}" for key, value in words.items())], ())
    assert 0 < len(typed.sweep_name) <= 24
    assert re.fullmatch(r"[A-Za-z0-9_,=][A-Za-z0-9_.,=+-]*", typed.sweep_name)
    other = CommandLine.parse([*typed.overrides, "-m", "trainer.max_steps=123456789"], ())
    assert other.sweep_name != typed.sweep_name


def test_a_sweep_goes_on_under_the_long_name_that_it_had_before(tmp_path):
    words = ["-m", "optimizer.lr=1,2", "experiment=lecture/head", f"output_dir={tmp_path}"]
    typed = CommandLine.parse(words, texts=())
    assert len(typed.sweep_name) <= 24
    before = "optimizer.lr,experiment=lecture-head"
    (tmp_path / "sweeps" / before).mkdir(parents=True)
    assert CommandLine.parse(words, texts=()).sweep_name == before


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hydra/launcher=jobli", "did you mean joblib? (basic, gpus, joblib, "),
        ("hydra/sweeper=gird", "did you mean grid? (basic, grid"),
        ("sweep=laddr", "did you mean ladder?"),
        ("sweep.fail_fats=true", "unknown key sweep.fail_fats; did you mean sweep.fail_fast?"),
        ("run_dir=", "run_dir=''"),
        ("output_dir=", "output_dir=''"),
        ("sweep.name=", "sweep.name=''"),
        ("model=bigram,hed", "model=hed: no such option; did you mean head?"),
    ],
)
def test_what_a_sweep_refuses(lab, tmp_path, word, said):
    status, _, err = lab("train", "-m", "seed=1,2", word)
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
