"""Models that take their steps together: each is what it is alone, up to rounding."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same_run, checkpoint, curves
from small import TINY
from torch import Tensor, nn

from lmlab.errors import LabError
from lmlab.models.bigram import Bigram
from lmlab.runs import Run
from lmlab.streams import own_default_generators
from lmlab.training.group import Group
from lmlab.training.stopping import Stop
from lmlab.training_run import train

GPT = ("model=gpt", "model.n_layer=2", "model.n_head=2", "model.n_embd=16")
MODERN = (
    *("model=modern", *GPT[1:], "model.tied=true", "model.value_residual=true", "model.u_net=true"),
    *("model.bigram_logits=all", "model.window=[4,null]"),
)
RULES = {  # each with a small rate: a large one makes much of how a sum is rounded
    "sgd": ("optimizer=sgd", "optimizer.lr=0.01"),
    "momentum": ("optimizer=momentum", "optimizer.lr=0.01"),
    "nesterov": ("optimizer=momentum", "optimizer.nesterov=true", "optimizer.lr=0.01"),
    "adagrad": ("optimizer=adagrad", "optimizer.lr=0.001"),
    "rmsprop": ("optimizer=rmsprop", "optimizer.lr=0.0001"),
    "rmsprop with momentum": ("optimizer=rmsprop", "optimizer.momentum=0.5", "optimizer.lr=1e-4"),
    "adam": ("optimizer=adam", "optimizer.weight_decay=0.1", "optimizer.lr=0.001"),
    "adamw": ("optimizer=adamw", "optimizer.lr=0.001"),
}
MODELS = ("bigram", "bag_of_words", "head", "multi_head", "feed_forward", "residual", "layer_norm")


@pytest.fixture
def small(composed, tinyshakespeare_path, tmp_path):
    corpus = f"corpus.path={tinyshakespeare_path}"

    def make(name: str, *words: str) -> dict[str, Any]:
        run_dir = f"run_dir={tmp_path / name}"
        return composed(corpus, *TINY, "callbacks.pictures.every=0", *words, run_dir)

    return make


def together(configs: list[dict[str, Any]], share: float = 0.5) -> list[Run]:
    group = Group(len(configs), Stop(), share=share)

    def member(config: dict[str, Any]) -> None:
        with own_default_generators(), group.joined(), suppress(LabError):  # the record has it
            train(config, stop=group.stop, group=group)

    threads = [threading.Thread(target=member, args=(config,)) for config in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    return [Run(Path(config["run_dir"])) for config in configs]


def alone(config: dict[str, Any]) -> Run:
    run = train({**config, "run_dir": f"{config['run_dir']}-alone"})
    assert run is not None
    return run


def check_close(run: Run, other: Run) -> None:
    """Equal up to rounding in what is computed; in everything else equal."""
    left, right = checkpoint(run), checkpoint(other)
    assert left.keys() == right.keys()
    assert left["global_step"] == right["global_step"]
    assert left["TextDataModule"]["generator"].equal(right["TextDataModule"]["generator"])
    torch.testing.assert_close(left["state_dict"], right["state_dict"], rtol=1e-3, atol=1e-4)
    mine, theirs = left["optimizer_states"][0], right["optimizer_states"][0]
    assert mine["param_groups"] == theirs["param_groups"]
    torch.testing.assert_close(mine["state"], theirs["state"], rtol=1e-2, atol=1e-4)
    assert run.record["status"] == other.record["status"] == "done"
    assert run.sample == other.sample
    assert run.record["metrics"] == pytest.approx(other.record["metrics"], abs=2e-4)
    for row, its_row in zip(curves(run), curves(other), strict=True):
        assert row.keys() == its_row.keys()
        assert row["step"] == its_row["step"]


@pytest.mark.parametrize("rule", RULES)
def test_each_update_rule_is_the_one_of_torch(small, rule):
    words = ("model=head", *RULES[rule])
    configs = [
        small("one", *words, "seed=1"),
        small("two", *words, "seed=2", "optimizer.weight_decay=0.2"),
        small("three", *words, "seed=1", "trainer.gradient_clip_val=0.1", "schedule=cosine"),
    ]
    runs = together(configs)
    for run, config in zip(runs, configs, strict=True):
        check_close(run, alone(config))
    assert [run.record["trained_with"] for run in runs] == [2, 2, 2]


@pytest.mark.parametrize("model", [*MODELS, "gpt", "modern"])
def test_each_rung_can_be_trained_together(small, model):
    words = {"gpt": GPT, "modern": MODERN}.get(model, (f"model={model}",))
    # A small rate: Adam makes whole steps of gradients that are nothing but rounding.
    words = (*words, "optimizer.lr=0.0003")
    configs = [small(f"{seed}", *words, f"seed={seed}") for seed in (1, 2)]
    for run, config in zip(together(configs), configs, strict=True):
        check_close(run, alone(config))


def test_a_member_does_not_depend_on_the_others(small):
    words = (*GPT, "trainer.accumulate_grad_batches=2")
    one = small("one", *words, "seed=1")
    (run,) = together([one])
    again = {**one, "run_dir": f"{one['run_dir']}-again"}
    others = [small(f"{n}", *words, f"seed={n}", "optimizer.lr=0.02") for n in (2, 3, 4)]
    same, *_ = together([again, *others])
    assert_same_run(run, same)


def test_what_does_not_fit_into_memory_is_computed_in_pieces(small):
    configs = [small(f"{seed}", "model=head", f"seed={seed}") for seed in (1, 2, 3)]
    whole = together(configs)
    again = [{**config, "run_dir": f"{config['run_dir']}-again"} for config in configs]
    for run, other in zip(together(again, share=0.0), whole, strict=True):
        assert_same_run(other, run)


def test_a_member_that_diverges_fails_alone(small):
    words = ("model=head",)
    good = small("good", *words, "seed=1")
    bad = small("bad", *words, "seed=2", "optimizer=adamw", "optimizer.lr=1e38")
    run, failed = together([good, bad])
    assert failed.record["status"] == "failed"
    check_close(run, alone(good))


class Draws(Bigram):
    """Random numbers without dropout in its config."""

    def forward(self, idx: Tensor) -> Tensor:
        logits = super().forward(idx)
        return logits + 1e-3 * torch.rand_like(logits) if self.training else logits


class Branches(Bigram):
    """Its path depends on its weights, which vmap cannot follow."""

    def forward(self, idx: Tensor) -> Tensor:
        return super().forward(idx) * (2 if self.table.weight.sum() > 1e9 else 1)


class Frozen(Bigram):
    """Weights of its own in each run, which no step changes."""

    def __init__(self, vocab_size: int, block_size: int):
        super().__init__(vocab_size, block_size)
        self.offset = nn.Parameter(torch.randn(vocab_size), requires_grad=False)

    def forward(self, idx: Tensor) -> Tensor:
        return super().forward(idx) + self.offset


class Doubles(Bigram):
    """Nothing that could not be computed for several runs."""

    def forward(self, idx: Tensor) -> Tensor:
        return 2 * super().forward(idx)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Draws, "draws random numbers"),
        (Branches, "cannot be computed"),
        (Frozen, "has weights that are not trained"),
        (Doubles, None),
    ],
)
def test_a_model_of_ones_own_is_trained_with_others_if_it_can_be(small, model, why):
    model_words = ("model=bigram", f"model._target_={__name__}.{model.__name__}")
    configs = [small(f"{seed}", *model_words, f"seed={seed}") for seed in (1, 2)]
    for run, config in zip(together(configs), configs, strict=True):
        if why is None:
            check_close(run, alone(config))
        else:
            assert_same_run(run, alone(config))
    logs = [(Path(config["run_dir"]) / "train.log").read_text() for config in configs]
    assert any(f"alone: {model.__name__} {why}" in log for log in logs) == (why is not None)


def test_large_models_keep_a_processor_busy_by_themselves(small, monkeypatch):
    monkeypatch.setattr("lmlab.training.group.LARGE", 1)
    configs = [small(f"{seed}", "model=head", f"seed={seed}") for seed in (1, 2)]
    for run, config in zip(together(configs), configs, strict=True):
        assert_same_run(run, alone(config))
        assert run.record["trained_with"] == 0
