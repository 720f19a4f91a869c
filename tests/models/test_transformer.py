"""The blocks between a single head and GPT: what each formula says, and why it is there."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmlab.models.attention import MultiHead, ProjectedMultiHead
from lmlab.models.transformer import (
    Block,
    FeedForward,
    PreNormBlock,
    ResidualBlock,
    Stack,
    WideFeedForward,
)

C = 16
BLOCKS = {
    "plain": partial(Block, attention=partial(MultiHead, n_head=4), feed_forward=FeedForward),
    "residual": partial(
        ResidualBlock, attention=partial(ProjectedMultiHead, n_head=4), feed_forward=WideFeedForward
    ),
    "pre_norm": partial(
        PreNormBlock, attention=partial(ProjectedMultiHead, n_head=4), feed_forward=WideFeedForward
    ),
}


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 6, C)


def test_feed_forward_is_linear_then_relu(x):
    layer = FeedForward(C)
    torch.testing.assert_close(layer(x), (x @ layer[0].weight.T + layer[0].bias).clamp(min=0))


def test_wide_feed_forward_has_four_times_the_room_inside(x):
    layer = WideFeedForward(C)
    inside = (x @ layer[0].weight.T + layer[0].bias).clamp(min=0)
    assert inside.shape == (2, 6, 4 * C)
    torch.testing.assert_close(layer(x), inside @ layer[2].weight.T + layer[2].bias)


def test_feed_forward_is_for_each_token_by_itself(x):
    layer = WideFeedForward(C)
    torch.testing.assert_close(layer(x)[:, 2], layer(x[:, 2]))


def test_a_plain_block_replaces_what_came_in(x):
    block = BLOCKS["plain"](n_embd=C)
    torch.testing.assert_close(block(x), block.feed_forward(block.attention(x)))


def test_a_residual_block_adds_to_what_came_in(x):
    block = BLOCKS["residual"](n_embd=C)
    between = x + block.attention(x)
    torch.testing.assert_close(block(x), between + block.feed_forward(between))


def test_a_pre_norm_block_adds_what_it_found_in_a_normalised_copy(x):
    block = BLOCKS["pre_norm"](n_embd=C)
    nn.init.normal_(block.attention_norm.weight)  # each norm has gains of its own
    nn.init.normal_(block.feed_forward_norm.weight)
    between = x + block.attention(F.layer_norm(x, (C,)) * block.attention_norm.weight)
    normed = F.layer_norm(between, (C,)) * block.feed_forward_norm.weight
    torch.testing.assert_close(block(x), between + block.feed_forward(normed))


def test_gradients_fade_on_their_way_down_unless_there_is_a_residual_path():
    def gradient_at_the_embedding(layer: partial) -> float:
        torch.manual_seed(0)
        model = Stack(11, 8, n_embd=C, n_layer=6, layer=layer)
        idx, targets = torch.randint(11, (2, 32, 8))
        F.cross_entropy(model(idx).flatten(0, 1), targets.flatten()).backward()
        return model.token_embedding.weight.grad.norm().item()

    sizes = {name: gradient_at_the_embedding(layer) for name, layer in BLOCKS.items()}
    assert sizes["plain"] < 1e-3 * sizes["residual"]
    assert sizes["plain"] < 1e-3 * sizes["pre_norm"]


def test_a_stack_adds_where_a_token_stands_to_what_it_is():
    torch.manual_seed(0)
    model = Stack(11, 8, n_embd=C, n_layer=0, layer=FeedForward)
    idx = torch.tensor([[3, 3, 5]])
    x = model.token_embedding.weight[[3, 3, 5]] + model.position_embedding.weight[:3]
    torch.testing.assert_close(model(idx)[0], model.lm_head(x))
