"""Composing the jobs of a sweep: what Hydra composes, in a fraction of the time."""

import copy
import pickle

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from lmlab.config.stored import conf_dir
from lmlab.config.words.hydra_inside import version_base
from lmlab.sweeps.launch.composing import RememberingLoader

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
