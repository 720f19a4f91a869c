"""Modern, whatever its parts: causal, computed in low precision, compiled, pictured."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modern_parts import DEFAULT, PARTS, T, V, choices, lively, modern, random_ids

from lmlab.models.maps import attention_maps
from lmlab.training.optimizers.rules import roles_of

every_part = pytest.mark.parametrize("part", PARTS)


@settings(max_examples=40, deadline=None)
@given(given=choices(), cut=st.integers(1, T - 1), seed=st.integers(0, 2**32))
def test_whatever_the_parts_no_position_sees_what_comes_after_it(given, cut, seed):
    model, idx = lively(**given), random_ids(2, T, seed=seed)
    changed = idx.clone()
    changed[:, cut:] = (idx[:, cut:] + 1) % V
    before, after = model(idx), model(changed)
    assert torch.equal(before[:, :cut], after[:, :cut])
    assert not torch.equal(before[:, cut], after[:, cut])


@every_part
def test_every_parameter_takes_part(part):
    model = lively(**PARTS[part])
    model(random_ids(2, T)).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name


@every_part
def test_in_low_precision_the_logits_are_about_the_same(part):
    model = modern(**{**DEFAULT, "projection_scale": 1.0, **PARTS[part]})
    idx = random_ids(2, T)
    exact = model(idx)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(idx)
    assert low.float().sub(exact).abs().max() < 0.05 * exact.abs().max()
    low.float().logsumexp(-1).sum().backward()


@every_part
def test_parameters_have_the_roles_that_rules_ask_for(part):
    model = lively(**PARTS[part])
    names, roles = {p: name for name, p in model.named_parameters()}, roles_of(model)
    by_role: dict[str, set[str]] = {}
    for parameter, found in roles.items():
        for role in found:
            by_role.setdefault(role, set()).add(names[parameter])
    assert "token_embedding.weight" in by_role["embeddings"]
    assert by_role["readout"] == {names[model.lm_head.weight]}
    tables = {name for name in names.values() if "gram" in name or "value_embedding" in name}
    assert tables <= by_role["embeddings"]
    inside = {name for name in by_role.get("vectors", ()) if name.startswith("blocks")}
    assert all(
        names_end(name, "norm", "conv", "value_residual", "shortcut", "skip") for name in inside
    )


def names_end(name: str, *endings: str) -> bool:
    return name.removesuffix(".weight").endswith(endings)


@every_part
def test_maps_are_what_the_attention_gathers_by(part):
    model, idx = lively(**PARTS[part]), random_ids(T)
    maps = attention_maps(model, idx)
    assert list(maps) == [f"blocks.{i}.attention" for i in range(3)]
    for weights, block in zip(maps.values(), model.blocks, strict=True):
        assert weights.shape == (4, T, T)
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, T))
        assert (weights.triu(1) == 0).all()
        if block.attention.window is not None:
            assert (weights.tril(-block.attention.window) == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["default", "windows in turn", "all"])
def test_it_compiles(part):
    every: dict[str, Any] = {}
    for name, chosen in PARTS.items():
        every |= chosen if name != "counts" else {}  # looked up, not computed
    model = lively(**(every if part == "all" else PARTS[part]))
    idx = random_ids(2, T)
    expected = model(idx)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(idx), expected, rtol=1e-3, atol=1e-3)
    compiled(idx).logsumexp(-1).sum().backward()
