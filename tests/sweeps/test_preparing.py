"""Every job of a sweep is checked before the first begins."""

from pathlib import Path

import pytest
from small import FOX

WORDS = ["-m", *FOX, "sweep.name=it"]
GPT = ["model=gpt", "model.n_layer=1", "model.n_embd=32"]
MODERN = ["model=modern", "model.n_layer=1", "model.n_embd=32", "model.n_head=4"]
OPTUNA = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=1"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            [*GPT, "model.n_head=1,2,3,5"],
            "model.n_head=3: model.n_embd=32 is not divisible by it "
            "(job 3 of 4: model.n_head=3, and 1 more; none has begun)",
        ),
        (
            ["optimizer.lr=0.1,-1", "seed=1,2,3"],
            "optimizer.lr=-1: input should be greater than 0 "
            "(job 4 of 6: optimizer.lr=-1 seed=1, and 2 more; none has begun)",
        ),
        (
            ["corpus.path=text.txt,txet.txt"],
            "corpus.path=txet.txt: no such file, and no file matches it as a pattern; a text that "
            "has moved is given by corpus.path=… "
            "(job 2 of 2: corpus.path=txet.txt; none has begun)",
        ),
        (
            ["trainer.max_steps=10,20", "pause_at=15"],
            "pause_at=15 is no step before the end, trainer.max_steps=10 "
            "(job 1 of 2: trainer.max_steps=10; none has begun)",
        ),
        (  # a rule of the model's own, which is known once it is made
            [*MODERN, "model.n_kv_head=1,2,3"],
            "model.n_kv_head=3: model.n_head=4 is not divisible by it "
            "(job 3 of 3: model.n_kv_head=3; none has begun)",
        ),
        (["model=bigram,gtp"], "model=gtp: no such option; did you mean gpt?"),
        (
            ["hydra/sweeper=halving", "optimizer.lr=0.1,0", "seed=1,2"],
            "optimizer.lr=0: input should be greater than 0 "
            "(job 3 of 4: optimizer.lr=0 seed=1, and 1 more; none has begun)",
        ),
        (
            ["sweep.race.first=2", "data.batch_size=4,0", "seed=1,2"],
            "data.batch_size=0: input should be greater than or equal to 1 (job 3 of 4: ",
        ),
        (
            [*OPTUNA, "optimizer.lr=interval(-1,1)", "seed=1,2"],
            "optimizer.lr=-1.0: input should be greater than 0 "
            "(in a job such as optimizer.lr=-1.0 seed=1; none has begun)",
        ),
        (
            [*OPTUNA, *GPT, "model.n_head=range(1,7)"],
            "model.n_head=6: model.n_embd=32 is not divisible by it "
            "(in a job such as model.n_head=6; none has begun)",
        ),
        (
            ["hydra/sweeper=halving", "hydra.sweeper.n_drawn=2", "optimizer.lr=interval(0,1)"],
            "optimizer.lr=0.0: input should be greater than 0 (in a job such as ",
        ),
    ],
)
def test_a_job_that_is_refused_ends_the_sweep_before_its_first(lab, text, words, error):
    status, out, err = lab("train", *WORDS, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {error}")
    assert not Path("outputs").exists()


def test_a_value_that_others_agree_with_is_left_to_the_search(lab, text):
    words = [*GPT, "model.n_embd=32,48", "model.n_head=1,3", "seed=1", "dry_run=true"]
    assert lab("train", *WORDS, *OPTUNA, *words)[0] == 0


def test_runs_that_are_there_are_not_asked_again_and_new_ones_are(lab, text):
    assert lab("train", *WORDS, "optimizer.lr=0.1,0.2")[0] == 0
    status, out, err = lab("train", *WORDS, "optimizer.lr=0.1,0.2,-1")
    assert (status, out) == (2, "")
    assert "optimizer.lr=-1: input should be greater than 0 (job 3 of 3: " in err
    assert len(list(Path("outputs/sweeps/it").glob("*/run.json"))) == 2


def test_jobs_that_begin_from_a_run_are_checked_as_its_config_says(lab, trained):
    (run,) = trained.glob("outputs/fox/*")
    words = ["-m", f"from={run}", "trainer.max_steps=4", f"corpus.path={trained / 'text.txt'}"]
    status, out, err = lab("train", *words, "data.val_fraction=0.2,2")
    assert (status, out) == (2, "")
    assert "data.val_fraction=2: input should be less than 1 (job 2 of 2: " in err
