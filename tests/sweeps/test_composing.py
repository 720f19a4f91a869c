"""Composing the jobs of a sweep: what Hydra composes, in a fraction of the time."""

import copy
import pickle

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmlab.config.check import plain_of
from lmlab.config.stored import conf_dir
from lmlab.config.words.hydra_inside import hydra_config_lent, version_base
from lmlab.sweeps.launch.composing import PlainConfigs, RememberingLoader

JOBS = [
    ["model=bigram", "seed=3"],
    ["model=bigram", "seed=4", "optimizer.lr=1e-3", "trainer.max_steps=0x10"],
    ["seed=4", "model=bigram"],
    ["experiment=lecture/head", "seed=5", "model.n_embd=16", "hydra.verbose=true"],
    ["experiment=lecture/head", "model.n_embd=null", "optimizer=sgd", "name='a=b,c'"],
    ["experiment=lecture/head", "+extra={a: 1, b: [2]}", "++extra.a=3", "~extra.b"],
    ["experiment=lecture/head", "~callbacks.sample", "name=${model._target_}/${seed}"],
    ["hydra/launcher=joblib", "callbacks=notebook", "eval.stride=4"],
    ["model={_target_: a.B}", "seed=3"],
    ["+model.more.inside=1", "output_dir=there"],
]
REFUSED = [
    ["seeds=3"],
    ["model=nothing", "seed=3"],
    ["+seed=3"],
    ["model=bigram", "~seed=5"],
    ["seed@here=3"],
    ["seed=1,2"],
]


@pytest.fixture
def loader():
    with initialize_config_dir(str(conf_dir()), **version_base()):
        yield GlobalHydra.instance().config_loader()


def test_every_job_is_what_hydra_composes(loader):
    ours = RememberingLoader(loader)
    for job in JOBS:
        expected = OmegaConf.to_yaml(loader.load_configuration("train", job, RunMode.RUN))
        for _ in range(2):  # composed, and then remembered
            found = ours.load_configuration("train", job, RunMode.RUN)
            assert OmegaConf.to_yaml(found) == expected
            assert OmegaConf.is_struct(found)
            found.seed = 99  # and nobody else's


def test_what_hydra_refuses_is_refused_in_its_words(loader):
    ours = RememberingLoader(loader)
    for job in REFUSED:
        with pytest.raises(ConfigCompositionException) as expected:
            loader.load_configuration("train", job, RunMode.RUN)
        for _ in range(2):
            with pytest.raises(ConfigCompositionException) as found:
                ours.load_configuration("train", job, RunMode.RUN)
            assert str(found.value) == str(expected.value)


def test_a_worker_that_is_sent_the_loader_composes_the_same(loader):
    ours = RememberingLoader(loader)
    first = ours.load_configuration("train", JOBS[1], RunMode.RUN)
    sent = pickle.loads(pickle.dumps(ours))
    assert sent.load_configuration("train", JOBS[1], RunMode.RUN) == first


def test_the_next_sweep_reads_the_files_again(tmp_path):
    (tmp_path / "train.yaml").write_text("value: 1\nother: 2\n")
    with initialize_config_dir(str(tmp_path), **version_base()):
        loader = GlobalHydra.instance().config_loader()
        ours = RememberingLoader(loader)
        assert ours.load_configuration("train", ["other=3"], RunMode.RUN).value == 1
        (tmp_path / "train.yaml").write_text("value: 5\nother: 2\n")
        assert ours.load_configuration("train", ["other=4"], RunMode.RUN).value == 1
        again = RememberingLoader(copy.deepcopy(loader))
        assert again.load_configuration("train", ["other=4"], RunMode.RUN).value == 5


def _plain_as_hydra_has_it(loader, master, words):
    with hydra_config_lent() as read_from:
        cfg = loader.load_sweep_config(master, list(words))
        read_from(cfg)
        return plain_of(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))


def _outcome(compose, *args):
    """What is composed, as a text: 1 is not 1.0, and a NaN is one. Or what is raised."""
    try:
        return repr(compose(*args))
    except Exception as error:
        return type(error)


NUMBERS = st.integers(-3, 10**6) | st.floats(allow_nan=False) | st.sampled_from(["1_000", "1e-3"])
VALUES = (
    NUMBERS.map(str)
    | st.sampled_from(["true", "null", "0.0", "-0.0", "nan", "'3'", "a b", "''", "'a,b=c'"])
    | st.sampled_from(["[1,2]", "{a: 1}", "'???'", "${seed}", "'${eval.iters}'", "\\\\${x}"])
)
# name is read from Hydra's choices, output_dir by logger=mlflow, and extra from other keys.
KEYS = st.sampled_from(
    ["seed", "model.n_embd", "optimizer.lr", "eval.iters", "name", "callbacks", "output_dir"]
)
WORDS = st.lists(
    st.tuples(st.sampled_from(["", "", "", "++"]), KEYS, VALUES).map("{0[0]}{0[1]}={0[2]}".format)
    | st.sampled_from(["model=head", "model=gpt", "+extra=${seed}", "+extra.of=${model.n_embd}"])
    | st.sampled_from(["~callbacks.sample", "logger=mlflow", "optimizer=sgd", "+extra=1"]),
    max_size=5,
)


@given(st.lists(WORDS, min_size=1, max_size=2), st.lists(VALUES, min_size=1, max_size=3))
@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_job_that_differs_in_single_values_is_what_hydra_composes(loader, jobs, values):
    remembering = RememberingLoader(loader)
    master = loader.load_configuration("train", ["model=head"], RunMode.MULTIRUN)
    configs = PlainConfigs(master, remembering)
    for words in jobs:
        for value in values:
            job = [*words, f"seed={value}"]
            expected = _outcome(_plain_as_hydra_has_it, loader, master, job)
            assert _outcome(lambda words: configs.of(words).plain, job) == expected, job


def test_jobs_that_differ_in_their_seed_are_composed_once(loader):
    remembering = RememberingLoader(loader)
    master = loader.load_configuration("train", ["model=bigram"], RunMode.MULTIRUN)
    configs = PlainConfigs(master, remembering)
    composed = []
    compose = remembering.load_sweep_config
    remembering.load_sweep_config = lambda *args: composed.append(args) or compose(*args)
    plains = [configs.of(["optimizer.lr=0.1", f"seed={n}"]).plain for n in range(20)]
    assert [plain["seed"] for plain in plains] == [*range(20)]
    assert len(composed) == 1
