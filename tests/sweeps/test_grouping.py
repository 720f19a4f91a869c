"""Sweeps whose jobs are trained together: which go together, and that each stays a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeps.conftest import ended, records
from sweeps.test_sweep import begun, numbers, only_sweep

from lmlab.sweeps.grouping import RULES, _cut, why_alone

TOGETHER = "hydra/launcher=together"
TOGETHER_HERE = (TOGETHER, "hydra.launcher.n_jobs=1")


def test_the_rules_are_those_that_can_be_computed():
    from lmlab.training.row_rules import ROW_RULES

    assert {f"torch.optim.{rule.__name__}" for rule in ROW_RULES} == set(RULES)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), None),
        (("model=gpt",), None),
        (("model=gpt", "model.dropout=0.1"), "dropout"),
        (("model=ngram",), "no steps"),
        (("trainer.max_steps=0",), "no steps"),
        (("streams=global",), "streams=global"),
        (("trainer=fast",), "trainer.precision=bf16-mixed"),
        (("trainer.compile=true",), "trainer.compile=true"),
        (("optimizer=muon",), "optimizer.rules"),
        (("callbacks=ema",), "callbacks.ema sees every step"),
        (("trainer.devices=2",), "trainer.devices=2"),
        (("trainer.devices=auto",), "trainer.devices=auto"),
        (("optimizer=momentum", "optimizer.nesterov=true"), None),
    ],
)
def test_why_a_run_is_trained_alone(composed, words, reason):
    found = why_alone(composed("model=bigram", *words))
    assert (found is None) if reason is None else (reason in str(found))


def test_it_says_what_it_groups_and_why_the_rest_stands_alone(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "eval.iters=2"]
    words += ["trainer.max_steps=8", "eval.every=4", "callbacks.pictures.every=0"]
    words += ["model=bigram,ngram,head", "optimizer.lr=0.1,0.01", "data.batch_size=4,8"]
    status, out, err = lab("train", *words, TOGETHER)
    assert (status, err) == (0, "")
    assert out.count("together    2 jobs: Bigram with AdamW, 8 steps") == 2
    assert out.count("together    2 jobs: Head with AdamW, 8 steps") == 2
    assert "alone       4 jobs: it takes no steps" in out
    found = records(only_sweep(tmp_path))
    assert {record["status"] for record in found.values()} == {"done"}
    assert [record.get("trained_with") for record in found.values()].count(1) == 8
    assert [record.get("trained_with") for record in found.values()].count(None) == 4


@given(n=st.integers(1, 60), size=st.integers(1, 70), n_pieces=st.integers(1, 9))
def test_a_group_is_cut_evenly(n, size, n_pieces):
    members = list(range(n))
    pieces = _cut(members, size, n_pieces)
    lengths = [len(piece) for piece in pieces]
    assert [i for piece in pieces for i in piece] == members
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) > 1 or n == 1 or size <= 2 or n < 4
    assert len(pieces) <= max(n_pieces, -(-n // size))


@pytest.mark.slow
def test_several_processes_train_what_one_trains(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "eval.iters=2"]
    words += ["trainer.max_steps=8", "eval.every=4", "model=head,ngram", "seed=range(1,6)"]
    found = {}
    for n_jobs in (1, 3):
        there = [f"sweep.name=of{n_jobs}", TOGETHER, f"hydra.launcher.n_jobs={n_jobs}"]
        status, _, err = lab("train", *words, *there)
        assert (status, err) == (0, "")
        found[n_jobs] = records(tmp_path / f"outputs/sweeps/of{n_jobs}")
        trained_with = [record.get("trained_with") for record in found[n_jobs].values()]
        others = sorted(n for n in trained_with if n is not None)
        assert others == ([4] * 5 if n_jobs == 1 else [1, 1, 2, 2, 2])
    assert numbers(found[3]) == {
        name: pytest.approx(values, abs=1e-4) for name, values in numbers(found[1]).items()
    }


@pytest.mark.slow
def test_a_sweep_may_be_begun_by_one_launcher_and_finished_by_another(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "eval.iters=2"]
    words += ["trainer.max_steps=8", "eval.every=4", "model=head", "callbacks.pictures.every=0"]
    seeds, basic = "seed=1,2,3,4", "hydra/launcher=basic"
    for name, first, then in (("a", basic, TOGETHER), ("b", TOGETHER, basic)):
        assert lab("train", *words, f"sweep.name={name}", "seed=1,2", first)[0] == 0
        before = begun(records(tmp_path / "outputs/sweeps" / name))
        status, out, err = lab("train", *words, f"sweep.name={name}", seeds, then)
        assert (status, err) == (0, "")
        assert "4/4 done (2 before)" in out
        assert before.items() <= begun(records(tmp_path / "outputs/sweeps" / name)).items()
    a, b = (numbers(records(tmp_path / "outputs/sweeps" / name)) for name in "ab")
    assert a == {name: pytest.approx(values, abs=1e-4) for name, values in b.items()}


def test_a_trained_run_is_evaluated_sampled_and_made_longer_like_any_other(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "eval.iters=2"]
    words += ["trainer.max_steps=8", "eval.every=4", "model=head", "seed=1,2"]
    assert lab("train", *words, TOGETHER)[0] == 0
    folder = only_sweep(tmp_path)
    for name, record in records(folder).items():
        run = f"run={folder / name}"
        status, out, err = lab("evaluate", run)
        assert (status, err) == (0, "")
        assert f"{record['metrics']['val/loss_full']:.4f} nats" in out
        assert lab("generate", run, "max_new_tokens=4")[0] == 0
        assert lab("train", run)[0] == 0
        assert lab("train", f"from={folder / name}", "trainer.max_steps=12")[0] == 0


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("size=0", "give a whole number of at least 1"),
        ("size=many", "give a whole number of at least 1"),
        ("n_jobs=0", "give a number of processes, or -1"),
        ("n_jobs=-2", "give a number of processes, or -1"),
        ("n_jobs=many", "give a number of processes, or -1"),
    ],
)
def test_numbers_of_no_use_are_refused_in_one_line(lab, text, tmp_path, word, said):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "seed=1,2"]
    status, _, err = lab("train", *words, TOGETHER, f"hydra.launcher.{word}")
    assert status == 2
    assert err.startswith(f"error: hydra.launcher.{word}: {said}")
    assert err.count("\n") == 1
    assert not records(only_sweep(tmp_path))


def test_a_dry_run_says_what_each_job_would_do(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "model=bigram,head"]
    status, out, err = lab("train", *words, TOGETHER, "hydra.launcher.n_jobs=2", "dry_run=true")
    assert (status, err) == (0, "")
    assert out.index("Bigram, ") < out.index("Stack, ")
    assert "2/2" not in out
    assert "2 planned" in out


def test_one_bad_job_of_a_group_fails_alone(lab, text, tmp_path):
    words = ["-m", "corpus=file", f"corpus.path={text}", "data.block_size=8", "eval.iters=2"]
    words += ["trainer.max_steps=8", "eval.every=4", "model=head", "optimizer.lr=1e-3,1e38"]
    status, _, err = lab("train", *words, TOGETHER)
    assert status == 2
    assert "error: 1 of 2 jobs failed" in err
    found = records(only_sweep(tmp_path)).values()
    statuses = {record["swept"]["optimizer.lr"]: record["status"] for record in found}
    assert statuses == {1e-3: "done", 1e38: "failed"}


def test_trials_of_a_study_are_trained_together_and_pruned_ones_leave(sweep, tmp_path):
    words = ["hydra/sweeper=optuna", "model=bigram", *TOGETHER_HERE, "sweep.name=a"]
    words += ["optimizer.lr=tag(log, interval(1e-7, 1e-1))", "hydra/sweeper/pruner=median"]
    words += ["hydra.sweeper.pruner.n_startup_trials=2", "hydra.sweeper.n_trials=8"]
    said = ended(sweep(*words, "trainer.max_steps=40", "hydra.sweeper.n_jobs=4"))
    assert said.count("together    4 jobs") == 2
    found = records(tmp_path / "outputs/sweeps/a")
    assert len(found) == 8
    statuses = [record["status"] for record in found.values()]
    assert statuses.count("done") + statuses.count("pruned") == 8
    assert "pruned" in statuses
