"""Attention written out: the notebook's cell 15, torch's own attention, and heads side by side."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.errors import LabError
from lmlab.models.attention import (
    Head,
    MultiHead,
    ProjectedMultiHead,
    attention_weights,
    size_of_heads,
)
from lmlab.models.averaging import average_by_loop

# What cell 15 prints: (b, t) -> row t of wei[b].
CELL_15 = {
    (0, 0): [1, 0, 0, 0, 0, 0, 0, 0],
    (0, 1): [0.1574, 0.8426, 0, 0, 0, 0, 0, 0],
    (0, 2): [0.2088, 0.1646, 0.6266, 0, 0, 0, 0, 0],
    (0, 7): [0.0210, 0.0843, 0.0555, 0.2297, 0.0573, 0.0709, 0.2423, 0.2391],
    (1, 1): [0.1687, 0.8313, 0, 0, 0, 0, 0, 0],
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def query_key_value(draw):
    *batch, T, head_size = draw(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 17), st.integers(1, 16))
    )
    return random(3, *batch, T, head_size, seed=draw(st.integers(0, 2**32))).unbind()


def test_cell_15_prints_these_weights():
    torch.manual_seed(1337)
    x = torch.randn(4, 8, 32)
    head = Head(32, head_size=16, scaled=False)
    wei = attention_weights(head.query(x), head.key(x), scaled=False)
    for (b, t), row in CELL_15.items():
        torch.testing.assert_close(wei[b, t], torch.tensor(row).float(), rtol=0, atol=5e-5)
    assert head(x).shape == (4, 8, 16)
    torch.testing.assert_close(head(x), wei @ head.value(x))


@settings(max_examples=60, deadline=None)
@given(query_key_value())
def test_agrees_with_the_attention_of_torch(qkv):
    query, key, value = qkv
    ours = attention_weights(query, key) @ value
    theirs = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(query_key_value())
def test_each_row_is_a_distribution_over_itself_and_its_past(qkv):
    query, key, _ = qkv
    wei = attention_weights(query, key)
    torch.testing.assert_close(wei.sum(-1), torch.ones(wei.shape[:-1]))
    assert (wei.tril() == wei).all()


@settings(max_examples=30, deadline=None)
@given(query_key_value())
def test_scaling_divides_the_affinities_by_the_root_of_the_head_size(qkv):
    query, key, _ = qkv
    root = query.shape[-1] ** 0.5
    torch.testing.assert_close(
        attention_weights(query, key, scaled=True),
        attention_weights(query / root, key, scaled=False),
        rtol=1e-4,
        atol=1e-6,
    )


def test_without_scaling_large_heads_look_at_almost_one_token():
    query, key = random(2, 500, 16, 64)
    largest = [attention_weights(query, key, scaled)[:, -1].amax(-1).mean() for scaled in (0, 1)]
    assert largest[0] > 0.8
    assert largest[1] < 0.4


def test_a_head_without_preferences_averages():
    # The bridge between the notebook's versions 3 and 4: equal affinities are equal weights.
    head, x = Head(4), random(2, 6, 4)
    torch.nn.init.zeros_(head.query.weight)
    torch.testing.assert_close(head(x), average_by_loop(head.value(x)))


def test_a_head_is_as_wide_as_the_embedding_unless_told():
    assert Head(12)(random(2, 3, 12)).shape == (2, 3, 12)
    assert Head(12, head_size=5)(random(2, 3, 12)).shape == (2, 3, 5)


def test_multi_head_is_its_heads_side_by_side():
    layer, x = MultiHead(n_embd=12, n_head=3), random(2, 5, 12)
    out = layer(x)
    assert out.shape == (2, 5, 12)
    for i, head in enumerate(layer.heads):
        torch.testing.assert_close(out[..., 4 * i : 4 * (i + 1)], head(x))


def test_projected_multi_head_mixes_what_its_heads_found():
    layer, x = ProjectedMultiHead(n_embd=12, n_head=3), random(2, 5, 12)
    found = torch.cat([head(x) for head in layer.heads], dim=-1)
    torch.testing.assert_close(layer(x), found @ layer.projection.weight.T + layer.projection.bias)


@pytest.mark.parametrize("layer", [MultiHead, ProjectedMultiHead])
def test_heads_that_do_not_share_evenly_are_refused(layer):
    with pytest.raises(LabError, match=r"n_embd=32 is not divisible by n_head=5"):
        layer(n_embd=32, n_head=5)
    assert size_of_heads(32, 4) == 8
