import pytest
import torch
from torch import nn

from lmlab.models.attention import Head, ProjectedMultiHead, attention_weights
from lmlab.models.averaging import Average
from lmlab.models.gpt import GPT, CausalSelfAttention
from lmlab.models.maps import attention_maps
from lmlab.models.transformer import PreNormBlock, Stack, WideFeedForward

T, N_EMBD = 8, 16
IDX = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


def inputs_and_outputs(
    model: nn.Module, kind: type
) -> list[tuple[nn.Module, torch.Tensor, torch.Tensor]]:
    seen = []
    hooks = [
        m.register_forward_hook(lambda m, args, out: seen.append((m, args[0], out)))
        for m in model.modules()
        if isinstance(m, kind)
    ]
    with torch.no_grad():
        model(IDX[None])
    for hook in hooks:
        hook.remove()
    return seen


def test_fused_maps_times_values_are_what_the_fused_kernel_computed():
    model = GPT(10, T, n_layer=2, n_head=4, n_embd=N_EMBD, dropout=0.1).eval()
    nn.init.normal_(model.blocks[0].attention.query_key_value.weight)
    maps = attention_maps(model, IDX)
    assert list(maps) == ["blocks.0.attention", "blocks.1.attention"]
    layers = inputs_and_outputs(model, CausalSelfAttention)
    for weights, (attention, x, out) in zip(maps.values(), layers, strict=True):
        assert weights.shape == (4, T, T)
        value = attention.query_key_value(x)[0, :, 2 * N_EMBD :].view(T, 4, N_EMBD // 4)
        gathered = torch.einsum("hts,shd->thd", weights, value).reshape(T, N_EMBD)
        torch.testing.assert_close(attention.projection(gathered), out[0])


def test_maps_of_separate_heads_belong_to_their_layer():
    def block(n_embd: int) -> PreNormBlock:
        return PreNormBlock(n_embd, lambda n_embd: ProjectedMultiHead(n_embd, 2), WideFeedForward)

    model = Stack(10, T, N_EMBD, n_layer=2, layer=block).eval()
    maps = attention_maps(model, IDX)
    assert list(maps) == ["layers.0.attention", "layers.1.attention"]
    heads = inputs_and_outputs(model, Head)
    for weights, (head, x, out) in zip(torch.cat(list(maps.values())), heads, strict=True):
        torch.testing.assert_close(weights @ head.value(x)[0], out[0])


def test_averages_are_a_triangle_of_equal_shares():
    (weights,) = attention_maps(Stack(10, T, N_EMBD, 1, Average), IDX).values()
    expected = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]
    torch.testing.assert_close(weights, expected[None])


@pytest.mark.parametrize("scaled", [True, False])
def test_rows_are_distributions_over_the_past(scaled: bool):
    model = Stack(10, T, N_EMBD, 1, lambda n_embd: Head(n_embd, scaled=scaled))
    (weights,) = attention_maps(model, IDX[:5]).values()
    assert weights.shape == (1, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 5))
    assert (weights.triu(1) == 0).all()


def test_a_model_that_gathers_nothing_has_no_maps_and_nobody_watches_on():
    own = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
    assert attention_maps(own, IDX) == {}
    assert attention_maps(nn.Sequential(own, Guard()), IDX) == {}
    model = GPT(10, T, n_layer=1, n_head=1, n_embd=4)
    attention_maps(model, IDX)
    with pytest.raises(IndexError):
        attention_maps(model, IDX + 10)
    assert not any("watch" in vars(module) for module in model.modules())


class Guard(nn.Identity):
    def watch(self) -> str:
        return "over something else"


class Turned(CausalSelfAttention):
    """Queries and keys are turned before they meet, which only the forward pass knows."""

    def forward(self, x):
        B, T, C = x.shape
        qkv = self.query_key_value(x).view(B, T, 3, self.n_head, C // self.n_head)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        wei = attention_weights(query.roll(1, -1), key)
        if self.watch is not None:
            self.watch(wei)
        return self.projection((wei @ value).transpose(1, 2).reshape(B, T, C))


def test_maps_are_the_weights_of_the_forward_pass_itself():
    model = GPT(10, T, n_layer=1, n_head=2, n_embd=N_EMBD).eval()
    turned = Turned(N_EMBD, 2, 0.0).eval()
    turned.load_state_dict(model.blocks[0].attention.state_dict())
    (plain,) = attention_maps(model, IDX).values()
    model.blocks[0].attention = turned
    (weights,) = attention_maps(model, IDX).values()
    ((attention, x, out),) = inputs_and_outputs(model, Turned)
    value = attention.query_key_value(x)[0, :, 2 * N_EMBD :].view(T, 2, N_EMBD // 2)
    gathered = torch.einsum("hts,shd->thd", weights, value).reshape(T, N_EMBD)
    torch.testing.assert_close(attention.projection(gathered), out[0])
    assert not torch.allclose(weights, plain, atol=1e-5)


def test_watching_changes_no_logit():
    model = GPT(10, T, n_layer=2, n_head=2, n_embd=N_EMBD, dropout=0.1).eval()
    before = model(IDX[None])
    attention_maps(model, IDX)
    assert torch.equal(model(IDX[None]), before)
