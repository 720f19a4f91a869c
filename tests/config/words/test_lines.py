"""What a line of overrides means does not depend on -m."""

import itertools
import math

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from lmlab.config.stored import conf_dir
from lmlab.config.words.axes import Axes, every_row
from lmlab.config.words.hydra_inside import version_base
from lmlab.sweeps.launch.composing import RememberingLoader

# What may stand in a line, and the overrides that it stands for, one for each value.
PLAIN = [
    *("optimizer=sgd", "optimizer=adamw", "optimizer={lr:0.5}", "optimizer={weight_decay:0.1}"),
    *("optimizer.lr=0.3", "++optimizer.lr=0.2", "+optimizer.more=1", "~optimizer.lr"),
    *("seed=3", "++seed=4", "~seed", "data={batch_size:4}", "data.batch_size=8", "model=bigram"),
    *("+extra=1", "++extra={b:2}", "~callbacks.sample", "callbacks.sample={prompt:x}"),
    *("experiment=quickstart", "name='a,b'", "model={n_layer:1}", "logger.csv=null"),
]
SWEPT = {
    "optimizer=sgd,adam": ["optimizer=sgd", "optimizer=adam"],
    "optimizer={lr:0.1},{lr:0.2}": ["optimizer={lr:0.1}", "optimizer={lr:0.2}"],
    "optimizer={eps:1},{eps:2}": ["optimizer={eps:1}", "optimizer={eps:2}"],
    "optimizer=sgd,{lr:0.7}": ["optimizer=sgd", "optimizer={lr:0.7}"],
    "optimizer.lr=0.01,0.02": ["optimizer.lr=0.01", "optimizer.lr=0.02"],
    "seed=range(1,3)": ["seed=1", "seed=2"],
    "data={batch_size:5},{block_size:6}": ["data={batch_size:5}", "data={block_size:6}"],
    "data.batch_size=choice(1,2)": ["data.batch_size=1", "data.batch_size=2"],
    "model=gpt,head": ["model=gpt", "model=head"],
    "+extra={a:1},{a:2}": ["+extra={a:1}", "+extra={a:2}"],
}
LINES = st.lists(st.sampled_from([*PLAIN, *SWEPT, *SWEPT]), min_size=1, max_size=5).filter(
    lambda line: 1 <= sum(word in SWEPT for word in line) <= 2
)


@pytest.fixture(scope="module")
def loader():
    with initialize_config_dir(str(conf_dir()), **version_base()):
        yield GlobalHydra.instance().config_loader()


def plain(config: DictConfig) -> str:
    """A config without what only tells how it was composed."""
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return OmegaConf.to_yaml(own, sort_keys=True)


def single_runs(loader, line: list[str]) -> list[str] | None:
    """The config of a run of its own for each value of what is swept; None: one is refused."""
    try:
        return [
            plain(loader.load_configuration("train", list(words), RunMode.RUN))
            for words in itertools.product(*(SWEPT.get(word, [word]) for word in line))
        ]
    except HydraException:
        return None


def jobs(loader, line: list[str]) -> list[str] | None:
    try:
        sweep = loader.load_configuration("train", line, RunMode.MULTIRUN)
        axes = Axes.parse({}, {}, sweep.hydra.overrides.task, loader)
        ours = RememberingLoader(loader)
        return [plain(ours.load_sweep_config(sweep, job)) for job in axes.jobs(every_row)]
    except HydraException:
        return None


def check(loader, line: list[str]) -> int:
    """How many jobs a line has, each as the run of its own words."""
    expected, found = single_runs(loader, line), jobs(loader, line)
    if expected is None or found is None:
        assert found == expected
        return 0
    assert set(found) == set(expected)
    keys = [word.partition("=")[0].lstrip("+~") for word in line]
    if len(set(keys)) == len(keys):  # nothing replaces an axis
        assert found == expected
    assert len(found) <= math.prod(len(SWEPT.get(word, [word])) for word in line)
    return len(found)


@pytest.mark.parametrize(
    ("line", "n_jobs"),
    [
        (["optimizer=sgd", "optimizer={lr:0.5}", "seed=range(1,3)"], 2),
        (["optimizer=sgd,adam", "optimizer={lr:0.5}"], 2),
        (["optimizer={lr:0.5}", "optimizer=sgd,adam"], 2),
        (["optimizer={lr:0.5}", "optimizer={weight_decay:0.1}", "seed=range(1,3)"], 2),
        (["optimizer={lr:0.1},{lr:0.2}", "optimizer={eps:1},{eps:2}"], 4),
        (["optimizer=sgd,adam", "optimizer={lr:0.1},{lr:0.2}", "optimizer={lr:0.5}"], 4),
        (["optimizer.lr=0.01,0.02", "optimizer={lr:0.5}"], 2),
        (["data={batch_size:5},{block_size:6}", "data.batch_size=8"], 2),
        (["seed=range(1,3)", "seed=3"], 1),
        (["seed=3", "seed=range(1,3)"], 2),
        (["model=gpt,head", "model=bigram"], 1),
        (["+extra={a:1},{a:2}", "++extra={b:2}"], 2),
    ],
)
def test_a_job_is_the_run_of_its_own_words(loader, line, n_jobs):
    assert check(loader, line) == n_jobs


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(LINES)
def test_whatever_is_typed(loader, line):
    check(loader, line)


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(LINES)
def test_whatever_is_typed_many_times(loader, line):
    check(loader, line)
