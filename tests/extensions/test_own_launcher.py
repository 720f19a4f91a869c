"""A launcher of one's own is one class and one YAML."""

import pytest
from extensions.conftest import TINY
from hydra.core.plugins import Plugins

SEARCH = ["hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=3", "hydra/sweeper/sampler=grid"]


@pytest.mark.parametrize(
    "more", [[], pytest.param(["hydra/sweeper=optuna", *SEARCH], marks=pytest.mark.slow)]
)
def test_it_launches_the_jobs_of_any_sweeper(here, lab, more):
    from hydra_plugins.backwards import Backwards

    Plugins.instance().register(Backwards)  # as Hydra does at its start with all that it finds
    words = ["--config-dir=conf", "-m", "model=bigram", "corpus=mine", *TINY, "trainer.max_steps=1"]
    words += ["hydra/launcher=backwards", "seed=1,2,3", *more]
    status, out, err = lab("train", *words)
    assert (status, err) == (0, "")
    assert "3/3 done" in out
    order = [line.split()[1] for line in out.splitlines() if line.startswith("done    ")]
    seeds = [name.partition("-")[0].removeprefix("seed=") for name in order]
    assert seeds == ["3", "2", "1"] if not more else sorted(seeds) == ["1", "2", "3"]
