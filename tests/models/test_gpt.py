"""GPT: what its initialisation promises, where dropout acts, and its fused attention unfused."""

import math

import pytest
import torch
import torch.nn.functional as F

from lmlab.errors import LabError
from lmlab.models.attention import MultiHead
from lmlab.models.gpt import GPT, CausalSelfAttention, GPTBlock, attend


def gpt(n_layer: int = 2, n_head: int = 4, n_embd: int = 64, dropout: float = 0.0) -> GPT:
    torch.manual_seed(0)
    return GPT(65, 32, n_layer=n_layer, n_head=n_head, n_embd=n_embd, dropout=dropout)


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(65, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n_layer", [1, 4])
def test_a_fresh_model_guesses_uniformly(n_layer):
    idx, targets = random_ids(2, 16, 32)
    loss = F.cross_entropy(gpt(n_layer)(idx).flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)


@pytest.mark.parametrize("n_layer", [1, 8])
def test_what_joins_the_residual_stream_starts_smaller_the_deeper_the_model(n_layer):
    model = gpt(n_layer)
    joining = [
        weight
        for block in model.blocks
        for weight in (block.attention.projection.weight, block.feed_forward[2].weight)
    ]
    assert len(joining) == 2 * n_layer
    small = 0.02 / math.sqrt(2 * n_layer)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.ones_like(parameter))
            continue
        std = small if any(parameter is weight for weight in joining) else 0.02
        assert parameter.std().item() == pytest.approx(std, rel=0.07)
        assert abs(parameter.mean().item()) < 0.1 * std


def test_dropout_acts_while_training_and_only_then():
    model, idx = gpt(dropout=0.5), random_ids(2, 32)
    assert not torch.equal(model(idx), model(idx))
    plain = gpt(dropout=0.0)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(idx), plain(idx))


def test_dropout_acts_on_the_attention_weights_too():
    attention, x = CausalSelfAttention(16, 2, dropout=0.5), torch.randn(2, 8, 16)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_dropout_acts_on_both_branches_of_a_block_and_on_the_embeddings():
    block, x = GPTBlock(16, 2, dropout=0.0), torch.randn(2, 8, 16)
    block.dropout.p = 1.0  # drop all that the branches add: only the residual path is left
    assert torch.equal(block(x), x)
    model = gpt()
    model.dropout.p = 1.0  # nothing comes in, and without biases nothing comes out
    assert torch.equal(model(random_ids(2, 8)), torch.zeros(2, 8, 65))


def test_a_block_is_pre_norm_with_a_gelu_in_a_feed_forward_without_biases():
    block, x = GPTBlock(16, 2, dropout=0.0), torch.randn(2, 8, 16)
    between = x + block.attention(F.layer_norm(x, (16,)))
    inside = F.gelu(F.layer_norm(between, (16,)) @ block.feed_forward[0].weight.T)
    torch.testing.assert_close(block(x), between + inside @ block.feed_forward[2].weight.T)


def test_fused_attention_is_the_written_out_heads_projected():
    C, n_head = 12, 3
    fused, heads = CausalSelfAttention(C, n_head, dropout=0.0), MultiHead(C, n_head)
    weights = fused.query_key_value.weight.detach().view(3, n_head, C // n_head, C)
    for i, head in enumerate(heads.heads):
        for linear, weight in zip((head.query, head.key, head.value), weights[:, i], strict=True):
            linear.weight = torch.nn.Parameter(weight)
    x = torch.randn(2, 7, C)
    torch.testing.assert_close(fused(x), fused.projection(heads(x)))


def test_heads_that_do_not_share_evenly_are_refused():
    with pytest.raises(LabError, match=r"n_embd=64 is not divisible by n_head=5"):
        gpt(n_head=5)


@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 1), (9, 9), (1, 9), (4, 9)])
def test_attention_in_low_precision_is_the_same_attention(n_queries, n_keys):
    source = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, n_queries, 8, generator=source).bfloat16()
    key, value = torch.randn(2, 2, 3, n_keys, 8, generator=source).bfloat16()
    exact = attend(query.float(), key.float(), value.float(), dropout=0.0)
    low = attend(query, key, value, dropout=0.0)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, rtol=0.02, atol=0.02)
