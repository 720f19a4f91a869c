"""Runs of a network that starts from counts: what it is shown, kept, resumed and branched."""

import pytest
import torch
from comparing import assert_same_run, checkpoint
from small import cut, train

from lmlab.models.ngram import NGram
from lmlab.training.beginning.restored import restore

COUNTS = [
    "model=modern",
    "model.n_embd=16",
    "model.n_layer=1",
    "model.dropout=0.1",
    "model.counts_order=4",
]


def test_it_is_worth_what_counting_is_from_the_start(experiment):
    counted = experiment("model=ngram", "model.order=4")
    both = experiment(*COUNTS, "optimizer.lr=1e-3")
    losses = [run.record["metrics"]["val/loss_full"] for run in (both, counted)]
    assert losses[0] < losses[1] + 0.01


def test_counts_are_of_the_train_split_alone(experiment, tinyshakespeare_text):
    run = experiment(*COUNTS)
    trained = restore(run, "last")
    ids = trained.tokenizer.encode(tinyshakespeare_text)
    plain = NGram(trained.model.vocab_size, 8, 4)
    plain.fit(ids[: int(0.99 * len(ids))])
    idx = torch.tensor(ids[-16:-8].astype("int64"))[None]
    assert torch.equal(trained.model.counts.ngram(idx), plain(idx))
    kept = checkpoint(run)["state_dict"]
    assert sum(name.startswith("model.counts.ngram.tables") for name in kept) == 12


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(experiment, optimizer):
    whole, other = (experiment(*COUNTS, f"optimizer={optimizer}") for _ in range(2))
    cut(other, 12)
    assert_same_run(whole, train({**other.config, "run": str(other.path)}))


def test_a_run_that_begins_from_another_has_its_counts(experiment):
    parent = experiment(*COUNTS)
    child = experiment(*COUNTS, f"from={parent.path}", "trainer.max_steps=28")
    tables = [
        {k: v for k, v in checkpoint(run)["state_dict"].items() if "counts.ngram" in k}
        for run in (parent, child)
    ]
    assert tables[0].keys() == tables[1].keys()
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])
