"""Muon beside torch's, its singular values, its state, and runs that it trains."""

import copy
import io
from functools import partial
from typing import Any

import pytest
import torch
from comparing import assert_same_run, checkpoint, curves, same, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from small import cut, train
from torch import Tensor, nn

from lmlab.errors import LabError
from lmlab.training.optimizers.configure import configure
from lmlab.training.optimizers.muon import Muon, orthogonalise
from lmlab.training.optimizers.rules import Rule

SHAPES = [(4, 4), (12, 4), (4, 4), (4, 16), (12, 4), (5, 3), (4, 4)]
EVERYTHING: dict[str, Any] = {
    **{"weight_decay": 0.1, "cautious": True, "beta2": 0.95},
    **{"momentum_warmup_steps": 6, "dtype": "float32"},
}
RULE = "optimizer.rules.matrices"
RUN = [
    *("model=gpt", "model.n_embd=16", "model.n_layer=2", "optimizer=muon"),
    *(f"{RULE}.beta2=0.95", f"{RULE}.weight_decay=0.1", f"{RULE}.cautious=true"),
    *(f"{RULE}.momentum_warmup_steps=20", "trainer.gradient_clip_val=0.5"),
]


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def take_steps(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, n: int) -> None:
    for _ in range(n):
        for p in parameters:
            p.grad = p.detach().cos()
        optimizer.step()


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_takes_the_steps_of_torchs_up_to_rounding(dtype, adjust_lr_fn):
    numbers: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": adjust_lr_fn}
    ours, theirs, start = matrices(), matrices(), matrices()
    take_steps(ours, Muon(ours, **numbers, dtype=dtype), 5)
    take_steps(theirs, torch.optim.Muon(theirs, **numbers), 5)
    for a, b, before in zip(ours, theirs, start, strict=True):
        moved = (b - before).norm()
        assert moved > 0.05
        assert (a - b).norm() < 0.02 * moved


@settings(max_examples=60)
@given(
    n=st.integers(1, 4), rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0)
)
@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 0.001), ("bfloat16", 0.08)])
def test_singular_values_become_about_one_and_singular_vectors_stay(
    n, rows, columns, seed, dtype, rounding
):
    generator = torch.Generator().manual_seed(seed % 2**63)
    m = torch.randn((n, rows, columns), generator=generator) * 10.0 ** (seed % 9 - 4)
    u, s, vh = torch.linalg.svd(m, full_matrices=False)
    result = orthogonalise(m, dtype=getattr(torch, dtype))
    assert result.dtype == m.dtype
    turned = u.mT @ result @ vh.mT  # diagonal, if the singular vectors are the same
    values = turned.diagonal(dim1=1, dim2=2)
    assert (turned - torch.diag_embed(values)).abs().max() < rounding
    assert values.min() > -rounding
    assert values.max() < 1.21 + rounding
    large = s > 0.02 * s.norm(dim=1, keepdim=True)  # the rest are on their way
    assert values[large].min() > 0.67 - rounding


def test_a_zero_gradient_moves_nothing():
    parameters = matrices()
    optimizer = Muon(parameters, beta2=0.95)
    before = copy.deepcopy(parameters)
    for p in parameters[1:]:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert same(parameters, before)
    assert parameters[0] not in optimizer.state  # it had no gradient at all


def test_the_momentum_grows_in_a_straight_line():
    grows, parameters = matrices(), matrices()
    optimizer = Muon(grows, momentum=0.95, momentum_start=0.85, momentum_warmup_steps=4)
    by_hand = Muon(parameters)
    for momentum in (0.85, 0.875, 0.9, 0.925, 0.95, 0.95):
        take_steps(grows, optimizer, 1)
        by_hand.param_groups[0]["momentum"] = momentum
        take_steps(parameters, by_hand, 1)
    for a, b in zip(grows, parameters, strict=True):
        torch.testing.assert_close(a, b)
    assert {state["step"] for state in optimizer.state.values()} == {6}


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_its_state_goes_on_bit_for_bit(options):
    whole = matrices()
    optimizer = Muon(whole, **options)
    take_steps(whole, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    half = copy.deepcopy(whole)
    resumed = Muon(half, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    take_steps(whole, optimizer, 3)
    take_steps(half, resumed, 3)
    assert same(whole, half)
    assert same(optimizer.state_dict(), resumed.state_dict())


def test_a_run_keeps_the_type_that_it_began_with():
    began, elsewhere = matrices(), matrices()
    first = Muon(began, dtype="float32")
    take_steps(began, first, 1)
    other = Muon(elsewhere, dtype="bfloat16")  # as another processor would choose
    other.load_state_dict(first.state_dict())
    assert other.param_groups[0]["dtype"] == "float32"
    assert Muon(matrices()).param_groups[0]["dtype"] in ("float32", "bfloat16")


def test_what_it_refuses_is_named():
    with pytest.raises(ValueError, match=r"2D parameters, not one of shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match=r"parts=3 does not divide the rows of a parameter \(4, 3"):
        Muon([nn.Parameter(torch.zeros(4, 3))], parts=3)
    model = nn.Sequential(nn.Linear(2, 2), nn.Embedding(2, 2))
    rules = {"all": Rule(("0.*",), partial(Muon, lr=0.1))}
    with pytest.raises(LabError, match=r"rules\.all: Muon does not take 0.bias \(2,\): Muon only"):
        configure(model, partial(torch.optim.SGD, lr=0.1), rules)


def test_steps_with_a_closure_return_its_loss():
    parameters = matrices()
    optimizer = Muon(parameters)

    def closure() -> Tensor:
        loss = sum(p.square().sum() for p in parameters)
        loss.backward()
        return loss.detach()

    before = optimizer.step(closure)
    optimizer.zero_grad()
    assert optimizer.step(closure) < before


def test_how_many_steps_are_taken_at_once_changes_nothing(experiment):
    one, ten = (experiment(*RUN, f"data.steps_per_batch={k}") for k in (1, 10))
    assert same(weights(one), weights(ten))
    assert curves(one) == curves(ten)


def test_a_run_that_was_cut_short_ends_as_if_it_never_was(experiment, tmp_path):
    words = [*RUN, "checkpoint.every=5", "checkpoint.keep=9", "data.steps_per_batch=4"]
    whole = experiment(*words, f"output_dir={tmp_path / 'whole'}")
    resumed = experiment(*words, f"output_dir={tmp_path / 'cut'}")
    cut(resumed, min(int(path.stem[5:]) for path in resumed.checkpoints()))
    train({**resumed.config, "run": str(resumed.path)})
    assert_same_run(whole, resumed)
    assert 24 in {state.get("step") for state in gathered(whole)}


def gathered(run: Any) -> list[dict[str, Any]]:
    return [*checkpoint(run)["optimizer_states"][0]["state"].values()]
