"""Hydra's sweep syntax, as Optuna's distributions and back."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lmlab.cli import conf_dir
from lmlab.config.words.axes import Axes
from lmlab.config.words.hydra_inside import version_base
from lmlab.errors import LabError
from lmlab.sweeps.search.space import Space


@pytest.fixture
def parse():
    """parse("key=values", …): the space that a command line makes, `params` besides."""
    with initialize_config_dir(str(conf_dir()), **version_base()):
        loader = GlobalHydra.instance().config_loader()
        yield lambda *words, **params: Space.of(Axes.parse(params, {}, words, loader))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("interval(0, 1)", FloatDistribution(0, 1)),
        ("int(interval(2, 8))", IntDistribution(2, 8)),
        ("tag(log, interval(1e-4, 1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True)),
        ("int(tag(log, interval(1, 64)))", IntDistribution(1, 64, log=True)),
        ("range(4)", IntDistribution(0, 3)),
        ("range(2, 9, 3)", IntDistribution(2, 8, step=3)),
        ("range(8, 1, -3)", IntDistribution(2, 8, step=3)),
        ("range(0, 1, 0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("8,16,32", CategoricalDistribution(("8", "16", "32"))),
        ("null,true,'a, b'", CategoricalDistribution(("null", "True", "'a, b'"))),
        ("[0.9,0.95],[0.9,0.99]", CategoricalDistribution(("[0.9,0.95]", "[0.9,0.99]"))),
        ("shuffle(3,1,2)", CategoricalDistribution(("1", "2", "3"))),
    ],
)
def test_every_kind_of_axis(parse, values, expected):
    assert parse(f"key={values}").searched == {"key": expected}


def test_a_glob_is_every_option_that_matches(parse):
    (found,) = parse("optimizer=glob([adam*,sgd])").searched.values()
    assert found == CategoricalDistribution(("adam", "adamw", "sgd"))


def test_the_command_line_replaces_an_axis_and_fixed_words_pass_as_typed(parse):
    space = parse("lr=interval(1,2)", "n=3", "+new={a: 'b c'}", "~gone", lr="1,2", n="4,5", k="6,7")
    assert space.searched["lr"] == FloatDistribution(1, 2)
    assert space.searched.keys() == {"lr", "k"}
    assert sorted(space.axes.fixed) == ["+new={a: 'b c'}", "n=3", "~gone"]


def test_a_job_spells_its_values_exactly(parse):
    space = parse("lr=interval(0,1)", "n=range(3)", "betas=[0.9,0.95],[0.9,0.99]", "fixed=1")
    job = space.job({"lr": 0.1 + 0.2, "n": 2, "betas": "[0.9,0.99]"})
    assert job == ["fixed=1", "lr=0.30000000000000004", "n=2", "betas=[0.9,0.99]"]


def test_examples_hold_every_choice_and_both_ends(parse):
    words = ["model=bigram,head,gpt", "lr=interval(1,2)", "n=4,5", "k=range(1,1000000000,2)"]
    examples = list(parse(*words).examples())
    assert set().union(*(example.words for example in examples)) == {
        *("model=bigram", "model=head", "model=gpt", "n=4", "n=5"),
        *("lr=1.0", "lr=2.0", "k=1", "k=999999999"),
    }
    (open_keys,) = (example.open_keys for example in examples if "lr=2.0" in example.words)
    assert open_keys == {"model", "n", "k"}


def test_the_grid_is_every_value(parse):
    space = parse("a=range(0,1,0.5)", "b=int(interval(1,3))", "c=x,y")
    assert space.grid() == {"a": [0.0, 0.5], "b": [1, 2, 3], "c": ["x", "y"]}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["n=3"], "nothing to search"),
        (["lr=interval(2,1)"], r"lr=interval\(2,1\): .*low"),
        (["lr=tag(log, interval(0,1))"], r"lr=tag\(log, interval\(0,1\)\): .*log"),
        (["lr=tag(lin, interval(0,1))"], "the one tag is log"),
        (["n=tag(log, range(1,5))"], "the one tag is log"),
        (["n=range(3,3)"], "no number is in this range"),
    ],
)
def test_a_search_that_makes_no_sense_is_named(parse, words, problem):
    with pytest.raises(LabError, match=problem):
        parse(*words)


def test_a_grid_needs_an_end(parse):
    with pytest.raises(LabError, match=r"lr=interval\(0.0,1.0\): the grid sampler"):
        parse("lr=interval(0,1)").grid()
