"""Which parameters are decayed, what the schedules promise, and that every option builds."""

from functools import partial
from typing import Any

import hydra
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lmlab.cli import conf_dir
from lmlab.config import build, schema
from lmlab.config.check import check
from lmlab.config.words.hydra_inside import version_base
from lmlab.models.bigram import Bigram
from lmlab.models.gpt import GPT
from lmlab.training.optimizers.configure import configure
from lmlab.training.optimizers.rules import rules_of
from lmlab.training.optimizers.schedules import constant, cosine, linear


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def composed(*overrides: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(conf_dir()), **version_base()):
        return check(hydra.compose("train", ["name=x", *overrides]), schema.Train).plain()


# --- parameter groups ------------------------------------------------------------------------


def test_matrices_are_decayed_and_vectors_are_not():
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = configure(model, partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that decay alone moves it
    optimizer.step()
    for name, parameter in model.named_parameters():
        shrunk = 1 - 0.1 * 0.5 if parameter.dim() >= 2 else 1
        torch.testing.assert_close(parameter, before[name] * shrunk, msg=name)


def test_every_trainable_parameter_is_in_one_group():
    model = GPT(11, 8, n_layer=2, n_head=2, n_embd=8)
    model.position_embedding.weight.requires_grad_(False)
    groups = configure(model, partial(torch.optim.SGD, lr=0.1)).param_groups
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_model_of_matrices_alone_has_one_group():
    assert len(configure(Bigram(5, 4), partial(torch.optim.SGD, lr=0.1)).param_groups) == 1


@pytest.mark.parametrize("option", options("optimizer"))
def test_every_optimizer_takes_a_step_that_lowers_the_loss(option):
    torch.manual_seed(0)
    model, target = nn.Linear(4, 3), torch.randn(3, 4)
    config = composed(f"optimizer={option}")
    optimizer = configure(
        model, build.optimizer(config["optimizer"]), rules_of(config["optimizer"])
    )

    def quadratic_loss() -> torch.Tensor:
        return (model.weight - target).square().sum() + (model.bias - 1).square().sum()

    before = quadratic_loss()
    before.backward()
    optimizer.step()
    assert 0 < quadratic_loss() < before


# --- schedules -------------------------------------------------------------------------------


@st.composite
def schedules(draw):
    """(schedule of (step, max_steps), step, max_steps), with any warm-up, even one too long."""
    max_steps = draw(st.integers(1, 5000))
    warmup = {"warmup_steps": draw(st.integers(0, max_steps + 5))}
    final, warmdown = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    schedule = draw(
        st.sampled_from(
            [
                partial(constant, **warmup),
                partial(cosine, **warmup, final=final),
                partial(linear, **warmup, warmdown=warmdown, final=final),
            ]
        )
    )
    return schedule, draw(st.integers(0, max_steps + 5)), max_steps


@settings(max_examples=100, deadline=None)
@given(schedules())
def test_the_rate_is_a_fraction_of_the_optimizers_own(case):
    schedule, step, max_steps = case
    assert 0 <= schedule(step, max_steps) <= 1


@settings(max_examples=100, deadline=None)
@given(schedules())
def test_the_rate_rises_during_warmup_and_never_after(case):
    schedule, step, max_steps = case
    now, then = schedule(step, max_steps), schedule(step + 1, max_steps)
    if step >= schedule.keywords["warmup_steps"]:
        assert then <= now + 1e-12
    elif schedule.func is not linear:  # there a long warm-up may run into the line down
        assert then > now > 0


@pytest.mark.parametrize("schedule", [constant, cosine, partial(linear, warmdown=0.2)])
def test_warmup_is_a_straight_line_to_the_full_rate(schedule):
    rates = [schedule(step, 100, warmup_steps=4) for step in range(6)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == pytest.approx(1.0, abs=1e-3)
    assert schedule(0, 100, warmup_steps=0) == 1.0


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_constant_is_constant(step, max_steps):
    assert constant(step, max_steps) == 1.0


@given(st.integers(2, 5000), st.data())
def test_cosine_ends_at_final_after_the_last_step_and_stays(max_steps, data):
    warmup = data.draw(st.integers(0, max_steps - 2), label="warmup_steps")
    final = data.draw(st.floats(0, 1), label="final")
    schedule = partial(cosine, max_steps=max_steps, warmup_steps=warmup, final=final)
    assert schedule(warmup) == 1.0
    assert schedule(max_steps) == pytest.approx(final, abs=1e-12)
    assert schedule(max_steps + 100) == pytest.approx(final, abs=1e-12)


@given(st.integers(1, 5000), st.integers(0, 100))
def test_no_step_is_spent_on_a_rate_of_zero(max_steps, warmup):
    for schedule in (cosine, partial(linear, warmdown=0.3), partial(linear, warmdown=0.0)):
        assert schedule(max_steps - 1, max_steps, warmup_steps=warmup, final=0.0) > 0


def test_cosine_is_half_way_down_half_way_through():
    assert cosine(60, max_steps=100, warmup_steps=20, final=0.1) == pytest.approx(0.55)
    assert cosine(40, max_steps=100, warmup_steps=20) == pytest.approx((1 + 2**-0.5) / 2)


@given(st.integers(2, 5000), st.data())
def test_linear_keeps_a_plateau_and_ends_at_final(max_steps, data):
    warmup = data.draw(st.integers(0, max_steps - 1), label="warmup_steps")
    final = data.draw(st.floats(0, 1), label="final")
    warmdown = data.draw(st.floats(0.01, 1), label="warmdown")
    schedule = partial(
        linear, max_steps=max_steps, warmup_steps=warmup, warmdown=warmdown, final=final
    )
    assert schedule(max_steps) == pytest.approx(final, abs=1e-12)
    for step in {warmup, (warmup + max_steps) // 2, max_steps - 1}:
        if step < max_steps - warmdown * max_steps:
            assert schedule(step) == 1.0


def test_linear_goes_down_in_equal_steps():
    rates = [linear(step, max_steps=10, warmdown=0.5, final=0.5) for step in range(11)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5])


def test_linear_without_a_warmdown_stays_up_to_the_end():
    assert {linear(step, max_steps=10, warmdown=0.0, final=0.0) for step in range(10)} == {1.0}


@pytest.mark.parametrize("option", options("schedule"))
def test_every_schedule_builds_and_goes_from_the_full_rate_to_its_final(option):
    config = composed(f"schedule={option}")
    schedule = build.schedule(config["schedule"])
    rates = [schedule(step, 1000) for step in range(1001)]
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(config["schedule"].get("final", 1.0))
