"""The classic update rules, written out, against every option of conf/optimizer.

Each rule starts at p and yields p after each step. Read in order they are a story: SGD goes
downhill; momentum keeps some of the speed it has; Adagrad gives each parameter a rate of its own,
smaller the more it was moved; RMSprop forgets, lest that rate go to zero; Adam does both, momentum
and RMSprop's rate; and AdamW takes weight decay out of all that averaging. Muon sees a matrix, not
numbers side by side: it moves it equally far in each of its directions.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from typing import Any

import hydra
import pytest
import torch
from torch import Tensor

from lmlab.cli import conf_dir
from lmlab.config import build, schema
from lmlab.config.check import check
from lmlab.config.words.hydra_inside import version_base
from lmlab.training.optimizers.rules import rules_of

Gradient = Callable[[Tensor], Tensor]


def sgd(p: Tensor, gradient: Gradient, lr: float, weight_decay: float) -> Iterator[Tensor]:
    """Against the gradient (Robbins and Monro 1951). Decay is that of (weight_decay / 2) * p**2."""
    while True:
        g = gradient(p) + weight_decay * p
        p = p - lr * g
        yield p


def momentum(
    p: Tensor, gradient: Gradient, lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> Iterator[Tensor]:
    """A ball that rolls (Polyak 1964), or one that looks ahead (Nesterov 1983)."""
    velocity = torch.zeros_like(p)
    while True:
        g = gradient(p) + weight_decay * p
        velocity = momentum * velocity + g
        p = p - lr * (g + momentum * velocity if nesterov else velocity)
        yield p


def adagrad(
    p: Tensor, gradient: Gradient, lr: float, eps: float, weight_decay: float
) -> Iterator[Tensor]:
    """Divided by the root of all squared gradients so far (Duchi et al. 2011)."""
    summed = torch.zeros_like(p)
    while True:
        g = gradient(p) + weight_decay * p
        summed = summed + g**2
        p = p - lr * g / (summed.sqrt() + eps)
        yield p


def rmsprop(
    p: Tensor,
    gradient: Gradient,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> Iterator[Tensor]:
    """Divided by the root of a running mean of squared gradients (Tieleman and Hinton 2012)."""
    squared = velocity = torch.zeros_like(p)
    while True:
        g = gradient(p) + weight_decay * p
        squared = alpha * squared + (1 - alpha) * g**2
        velocity = momentum * velocity + g / (squared.sqrt() + eps)
        p = p - lr * velocity
        yield p


def adam(
    p: Tensor, gradient: Gradient, lr: float, betas: list[float], eps: float, weight_decay: float
) -> Iterator[Tensor]:
    """Running means of g and g**2, freed of their start at zero (Kingma and Ba 2015)."""
    return _adam(p, gradient, lr, betas, eps, decay_in_gradient=weight_decay, decay_apart=0.0)


def adamw(
    p: Tensor, gradient: Gradient, lr: float, betas: list[float], eps: float, weight_decay: float
) -> Iterator[Tensor]:
    """Adam, with p shrunk by itself, apart from the gradient (Loshchilov and Hutter 2019)."""
    return _adam(p, gradient, lr, betas, eps, decay_in_gradient=0.0, decay_apart=weight_decay)


def muon(
    p: Tensor,
    gradient: Gradient,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    adjust_lr_fn: str,
    ns_steps: int,
    momentum_warmup_steps: int,
    momentum_start: float,
    beta2: float | None,
    cautious: bool,
    parts: int,
) -> Iterator[Tensor]:
    """The momentum of a matrix, with all its singular values made about 1 (Jordan et al. 2024)."""
    rows, columns = p.shape[0] // parts, p.shape[1]
    scale = {
        "original": max(1, rows / columns) ** 0.5,
        "match_rms_adamw": 0.2 * max(rows, columns) ** 0.5,
    }[adjust_lr_fn]
    mean, row_squares = torch.zeros_like(p), torch.zeros(len(p), 1, dtype=p.dtype)
    t = 0
    while True:
        g = gradient(p)
        grown = min(1, t / momentum_warmup_steps) if momentum_warmup_steps else 1
        beta = momentum_start + (momentum - momentum_start) * grown
        t += 1
        mean = beta * mean + (1 - beta) * g
        update = beta * mean + (1 - beta) * g if nesterov else mean
        update = torch.cat([newton_schulz(part, ns_steps) for part in update.split(rows)])
        if beta2 is not None:  # NorMuon (Li et al. 2025)
            row_squares = beta2 * row_squares + (1 - beta2) * (update**2).mean(1, keepdim=True)
            evened = update / row_squares.sqrt()
            update = evened * update.norm() / evened.norm()
        decaying = p * (update * p >= 0) if cautious else p
        p = p - lr * weight_decay * decaying - lr * scale * update
        yield p


def newton_schulz(m: Tensor, steps: int) -> Tensor:
    """m with singular values between about 0.7 and 1.2, by steps of a polynomial of m."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = m / m.norm()
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


def _adam(p, gradient, lr, betas, eps, decay_in_gradient, decay_apart):
    beta1, beta2 = betas
    mean = squared = torch.zeros_like(p)
    t = 0
    while True:
        t += 1
        g = gradient(p) + decay_in_gradient * p
        mean = beta1 * mean + (1 - beta1) * g
        squared = beta2 * squared + (1 - beta2) * g**2
        m_hat, v_hat = mean / (1 - beta1**t), squared / (1 - beta2**t)
        p = p - lr * decay_apart * p - lr * m_hat / (v_hat.sqrt() + eps)
        yield p


RULES = {
    "sgd": sgd,
    "momentum": momentum,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
    "muon": muon,
}
BY_ELEMENT = [option for option in RULES if option != "muon"]


@cache
def optimizer_config(option: str, *overrides: str) -> dict[str, Any]:
    words = ["name=x", f"optimizer={option}", *overrides]
    with hydra.initialize_config_dir(str(conf_dir()), **version_base()):
        return check(hydra.compose("train", words), schema.Train).plain()


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config["optimizer"].items() if k[0] != "_" and k != "fused"}


# A valley, steep across and shallow along: 0.5 * curvature * (p - bottom)**2.
START = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
CURVATURE = torch.tensor([[0.01, 0.1], [1.0, 9.0]], dtype=torch.float64)
BOTTOM = torch.tensor([[0.0, 1.0], [-1.0, 2.0]], dtype=torch.float64)


def valley(p: Tensor) -> Tensor:
    return CURVATURE * (p - BOTTOM)


def steps_of_torch(config: dict[str, Any], gradient: Gradient = valley) -> Iterator[Tensor]:
    p = torch.nn.Parameter(START.clone())
    optimizer = build.optimizer(config["optimizer"])([p])
    while True:
        p.grad = gradient(p.detach())
        optimizer.step()
        yield p.detach().clone()


def test_every_option_is_a_rule_written_out_here():
    assert set(RULES) == {path.stem for path in (conf_dir() / "optimizer").glob("*.yaml")}


@pytest.mark.parametrize(
    ("option", "overrides"),
    [
        *((option, []) for option in BY_ELEMENT),
        *((option, ["optimizer.weight_decay=0.3"]) for option in BY_ELEMENT),
        ("momentum", ["optimizer.nesterov=true"]),
        ("rmsprop", ["optimizer.momentum=0.9"]),
        ("adam", ["optimizer.betas=[0.5,0.6]", "optimizer.eps=0.1"]),
        ("adamw", ["optimizer.betas=[0.5,0.6]", "optimizer.eps=0.1"]),
    ],
)
def test_torch_takes_the_steps_of_the_written_out_rule(option, overrides):
    config = optimizer_config(option, *overrides)
    rule = RULES[option](START, valley, **settings_of(config))
    for ours, theirs in islice(zip(rule, steps_of_torch(config), strict=False), 30):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["nesterov=false"],
        ["weight_decay=0.3"],
        ["adjust_lr_fn=match_rms_adamw"],
        ["ns_steps=3"],
        ["momentum_warmup_steps=5"],
        ["beta2=0.9"],
        ["weight_decay=0.3", "cautious=true"],
        ["weight_decay=0.3", "cautious=true", "beta2=0.9", "momentum_warmup_steps=5"],
    ],
    ids=",".join,
)
@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-4), ("bfloat16", 0.04)])
def test_muon_takes_the_steps_of_the_written_out_rule(overrides, dtype, rounding):
    for shape in ((2, 2), (5, 2), (3, 7)):
        follow_muon([f"dtype={dtype}", *overrides], shape, rounding)


def test_muon_takes_a_matrix_in_parts():
    for shape in ((6, 2), (6, 5), (3, 2)):
        follow_muon(["dtype=float32", "parts=3", "weight_decay=0.3"], shape, 1e-4)
        follow_muon(["dtype=float32", "parts=3", "beta2=0.9"], shape, 1e-4)


def follow_muon(overrides: list[str], shape: tuple[int, int], rounding: float) -> None:
    """Step by step; `rounding` is that of an update, whose entries are at most about 1."""
    overrides = [f"optimizer.rules.matrices.{word}" for word in ["lr=0.02", *overrides]]
    config = optimizer_config("muon", *overrides)
    rule, settings = (
        rules_of(config["optimizer"])["matrices"],
        dict(config["optimizer"]["rules"]["matrices"]),
    )
    for key in ("_target_", "params", "schedule", "dtype"):
        del settings[key]
    generator = torch.Generator().manual_seed(1)
    start, *gradients = torch.randn((9, *shape), generator=generator)
    p = torch.nn.Parameter(start.clone())
    optimizer = rule.make([p])
    given = iter(gradients)
    ours = muon(start, lambda _: next(given), **settings)
    for step, (gradient, expected) in enumerate(zip(gradients, ours, strict=False), 1):
        p.grad = gradient
        optimizer.step()
        atol = rounding * settings["lr"] * step
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("option", ["adagrad", "adam", "adamw"])
def test_the_first_step_is_as_long_whatever_the_size_of_the_gradient(option):
    config = optimizer_config(option, "optimizer.weight_decay=0")
    first = next(steps_of_torch(config))
    expected = START - config["optimizer"]["lr"] * valley(START).sign()
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-8)


def test_decay_shrinks_in_proportion_under_adamw_and_by_a_fixed_step_under_adam():
    # With no other gradient: Adam divides the decay by its own size, so its strength is lost.
    for decay in (0.01, 0.1):
        overrides = [f"optimizer.weight_decay={decay}", "optimizer.lr=0.1"]
        by_adamw = next(steps_of_torch(optimizer_config("adamw", *overrides), torch.zeros_like))
        by_adam = next(steps_of_torch(optimizer_config("adam", *overrides), torch.zeros_like))
        torch.testing.assert_close(by_adamw, START * (1 - 0.1 * decay))
        torch.testing.assert_close(by_adam, START - 0.1 * START.sign(), rtol=1e-5, atol=1e-6)
