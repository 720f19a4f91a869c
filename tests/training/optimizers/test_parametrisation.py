"""The maximal update parametrisation: its factors, what it equals, and what it is for."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_same_run, checkpoint, same, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from small import cut, train
from torch import nn

from lmlab.config import build
from lmlab.config.fingerprint import fingerprint
from lmlab.display.activations import LOGITS, mean_sizes
from lmlab.errors import LabError
from lmlab.models.gpt import GPT
from lmlab.training.optimizers.configure import configure
from lmlab.training.optimizers.parametrisation import (
    Factors,
    MuP,
    parametrisation_of,
    scale_weights,
)
from lmlab.training.optimizers.rules import n_inside, names_of, rules_of

ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, eps=1e-8)
BASE = {"base_n_embd": 16, "base_n_head": 2}
MUP = ["parametrisation=mup", "parametrisation.base_n_embd=16", "parametrisation.base_n_head=2"]
SMALL_GPT = ["model=gpt", "model.n_embd=32", "model.n_head=4", "model.n_layer=1"]


def gpt(n_embd: int, n_layer: int = 2) -> tuple[GPT, dict[str, Any]]:
    """A model with heads of 8, and its config."""
    torch.manual_seed(0)
    config = {"n_embd": n_embd, "n_head": n_embd // 8, "n_layer": n_layer}
    return GPT(11, 8, **config), {"_target_": "lmlab.models.gpt.GPT", **config}


def by_name(model: nn.Module, factors: dict[nn.Parameter, Factors]) -> dict[str, Factors]:
    return {names[0]: factors[p] for p, names in names_of(model).items()}


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> list[torch.Tensor]:
    """Train on random tokens, the same for every model; the logits before each step."""
    generator, seen = torch.Generator().manual_seed(1), []
    for _ in range(n):
        idx, targets = torch.randint(model.vocab_size, (2, 8, 8), generator=generator)
        logits = model(idx)
        seen.append(logits.detach())
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return seen


# --- factors ---------------------------------------------------------------------------------


def test_the_factors_of_a_model_four_times_as_wide():
    model, config = gpt(64)
    factors = by_name(model, MuP(**BASE).factors(model, config))
    assert factors["token_embedding.weight"] == Factors(eps=1 / 4)
    assert factors["position_embedding.weight"] == Factors(eps=1 / 4)
    assert factors["lm_head.weight"] == Factors(std=1 / 4, lr=1 / 4, weight_decay=4)
    matrix = Factors(std=1 / 2, lr=1 / 4, weight_decay=4, eps=1 / 4)
    assert factors["blocks.0.attention.query_key_value.weight"] == matrix
    assert factors["blocks.1.feed_forward.2.weight"] == matrix
    assert factors["final_norm.weight"] == Factors(eps=1 / 4)


def test_at_the_base_all_factors_are_one():
    model, config = gpt(16)
    factors = MuP(**BASE, base_n_layer=2).factors(model, config)
    assert set(factors.values()) == {Factors()}
    before = copy.deepcopy(model.state_dict())
    scale_weights(factors)
    assert same(before, model.state_dict())


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_every_weight_decays_as_much_in_a_step_at_every_size(wider, n_layer, deeper):
    model, config = gpt(8 * wider, n_layer)
    mup = MuP(**BASE, base_n_layer=2 if deeper else None)
    optimizer = configure(model, ADAMW, factors=mup.factors(model, config))
    for group in optimizer.param_groups:
        decays = group["params"][0].dim() > 1
        assert group["lr"] * group["weight_decay"] == pytest.approx(0.001 if decays else 0)
        assert group["initial_lr"] == group["lr"]
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert set(held) == set(model.parameters())
    assert len(held) == len(set(held))


def test_muon_keeps_its_rate_and_adamw_around_it_is_scaled(composed):
    config = composed("model=modern", "optimizer=muon", *MUP, "model.n_embd=32", "model.n_head=4")
    model = build.model(config["model"], 11, config["data"]["block_size"])
    factors = parametrisation_of(config["parametrisation"]).factors(model, config["model"])
    optimizer = configure(
        model, build.optimizer(config["optimizer"]), rules_of(config["optimizer"]), factors
    )
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(model.blocks[0].attention.projection.weight)] == 0.02
    assert rates[id(model.lm_head.weight)] == 0.005
    assert rates[id(model.token_embedding.weight)] == 0.01
    node = config["optimizer"]["rules"]["matrices"] | {"adjust_lr_fn": "match_rms_adamw"}
    like_adamw = {**config, "optimizer": {**config["optimizer"], "rules": {"matrices": node}}}
    optimizer = configure(
        model, build.optimizer(config["optimizer"]), rules_of(like_adamw["optimizer"]), factors
    )
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(model.blocks[0].attention.projection.weight)] == 0.01


# --- what it equals --------------------------------------------------------------------------


def test_it_trains_the_function_of_the_paper_with_its_multipliers():
    """Table 8 of arXiv 2203.03466 divides the logits by the width; CompleteP divides what a block
    adds by the depth. Written so, with the rates that go with that, the logits are the same."""
    width, depth = 4, 3
    model, config = gpt(16 * width, n_layer=2 * depth)
    model.double()
    mup = MuP(**BASE, base_n_layer=2)
    exactly = partial(ADAMW, eps=1e-30)
    multiplied = copy.deepcopy(model)
    scale_weights(mup.factors(model, config))
    ours = take_steps(model, configure(model, exactly, factors=mup.factors(model, config)), 4)

    def divide(by: float) -> Any:
        return lambda module, inputs, output: output / by

    groups = []
    for name, parameter in multiplied.named_parameters():
        module = multiplied.get_submodule(name.rpartition(".")[0])
        is_hidden = name.startswith("blocks.") and parameter.dim() > 1
        with torch.no_grad():
            if name.startswith("lm_head"):
                module.register_forward_hook(divide(width))
            elif is_hidden:
                parameter /= width**0.5
            if name.endswith(("projection.weight", "feed_forward.2.weight")):
                parameter *= depth**0.5  # as it is drawn for the depth of the base
                module.register_forward_hook(divide(depth))
        rate, decay = (0.01 / width, 0.1 * width) if is_hidden else (0.01, 0.1)
        decay *= parameter.dim() > 1
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    theirs = take_steps(multiplied, torch.optim.AdamW(groups, eps=1e-30), 4)
    for step, (left, right) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(left, right, msg=f"before step {step}")
    assert not torch.allclose(ours[0], ours[-1], atol=0.01)


def test_a_run_at_the_base_is_the_standard_one_bit_for_bit(experiment):
    words = ["model=gpt", "model.n_embd=16", "model.n_head=2", "model.n_layer=1"]
    words += ["trainer.gradient_clip_val=0.5", "optimizer.weight_decay=0.1"]
    plain, base = experiment(*words), experiment(*words, *MUP)
    assert same(weights(plain), weights(base))
    assert plain.record["metrics"] == base.record["metrics"]
    wide = experiment(*SMALL_GPT, *MUP)
    groups = checkpoint(wide)["optimizer_states"][0]["param_groups"]
    assert sorted(group["lr"] for group in groups) == [0.0005, 0.0005, 0.001, 0.001]
    assert wide.record["parameters_inside"] == 12 * 32**2 + 3 * 32


def test_a_run_that_was_cut_short_ends_as_if_it_never_was(experiment, tmp_path):
    words = [*SMALL_GPT, *MUP, "schedule=cosine", "checkpoint.keep=9"]
    whole = experiment(*words, f"output_dir={tmp_path / 'whole'}")
    resumed = experiment(*words, f"output_dir={tmp_path / 'cut'}")
    cut(resumed, 12)
    train({**resumed.config, "run": str(resumed.path)})
    assert_same_run(whole, resumed)


def test_a_run_may_begin_from_one_in_the_other_parametrisation(experiment):
    run = experiment(*SMALL_GPT)
    node = {"_target_": "lmlab.training.optimizers.parametrisation.MuP", **BASE}
    longer = {**run.config["trainer"], "max_steps": 30}
    other = train({**run.config, "from": str(run.path), "parametrisation": node, "trainer": longer})
    groups = checkpoint(other)["optimizer_states"][0]["param_groups"]
    assert sorted(group["lr"] for group in groups) == [0.0005, 0.0005, 0.001, 0.001]


def test_the_standard_one_leaves_fingerprints_as_they_were(composed):
    config = composed("model=gpt")
    before = {key: value for key, value in config.items() if key != "parametrisation"}
    assert fingerprint(before) == fingerprint(config)
    assert fingerprint(composed("model=gpt", "parametrisation=mup")) != fingerprint(config)
    model = build.model(before["model"], 11, before["data"]["block_size"])
    assert parametrisation_of(before.get("parametrisation")).factors(model, before["model"]) == {}


# --- what it is for --------------------------------------------------------------------------


def sizes_by_width(composed: Any, words: list[str], steps: int = 5) -> dict[int, dict[str, float]]:
    """Mean absolute activations after some steps with AdamW at one rate, for two widths."""
    found = {}
    for width in (32, 256):
        config = composed(
            *words,
            *(f"model.n_embd={width}", f"model.n_head={width // 16}", "model.n_layer=2"),
            *("optimizer.lr=0.01", "data.block_size=8"),
        )
        torch.manual_seed(0)
        model = build.model(config["model"], 65, config["data"]["block_size"])
        factors = parametrisation_of(config["parametrisation"]).factors(model, config["model"])
        scale_weights(factors)
        optimizer = configure(
            model, build.optimizer(config["optimizer"]), rules_of(config["optimizer"]), factors
        )
        take_steps(model, optimizer, steps)
        found[width] = mean_sizes(model, torch.arange(64).view(8, 8))
    return found


@pytest.mark.parametrize("model", ["gpt", "modern"])
def test_activations_keep_their_size_in_a_wide_model(composed, model):
    words = [f"model={model}", *(["model.soft_cap=null"] if model == "modern" else [])]
    mup = ["parametrisation=mup", "parametrisation.base_n_embd=32", "parametrisation.base_n_head=2"]
    standard, scaled = (sizes_by_width(composed, [*words, *w]) for w in ([], mup))
    grown = {n: standard[256][n] / standard[32][n] for n in standard[32]}
    kept = {n: scaled[256][n] / scaled[32][n] for n in scaled[32]}
    for name in (LOGITS, "blocks.1.feed_forward"):
        assert grown[name] > 2.5, name
        assert 0.3 < kept[name] < 1.6, name
    assert all(ratio < 1.6 for ratio in kept.values()), kept
    assert scaled[32] == standard[32]


# --- what is refused -------------------------------------------------------------------------


def test_without_blocks_depth_is_refused():
    model = nn.Sequential(nn.Embedding(11, 16), nn.Linear(16, 16), nn.Linear(16, 11))
    model.vocab_size = 11
    config = {"_target_": "mine.Stack", "n_embd": 16, "n_head": 2, "n_layer": 4}
    assert len(MuP(**BASE).factors(model, config)) == 5
    with pytest.raises(LabError, match=r"base_n_layer=2: no weight of mine\.Stack"):
        MuP(**BASE, base_n_layer=2).factors(model, config)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=gpt", "model.n_head=4"], "the base has heads of 8, the model of 32"),
        (["model=bigram"], "lmlab.models.bigram.Bigram has no n_embd"),
        (["model=modern", "model.n_head=16", "model.tied=true"], "give model.tied=false"),
        (["model=gpt", "model.n_head=16", "optimizer=sgd"], "not as those of SGD (optimizer)"),
    ],
)
def test_what_it_does_not_scale_is_refused_in_one_line(composed, words, said):
    config = composed(*MUP, *words)
    model = build.model(config["model"], 11, config["data"]["block_size"])

    def scaled() -> None:
        factors = parametrisation_of(config["parametrisation"]).factors(model, config["model"])
        configure(
            model, build.optimizer(config["optimizer"]), rules_of(config["optimizer"]), factors
        )

    with pytest.raises(LabError) as refused:
        scaled()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_stands_between_the_tables(composed):
    counted = {
        option: n_inside(build.model(composed(f"model={option}")["model"], 11, 64))
        for option in ("bigram", "gpt")
    }
    n_embd, n_layer = 128, 4
    assert counted == {"bigram": 0, "gpt": 12 * n_layer * n_embd**2 + (2 * n_layer + 1) * n_embd}
