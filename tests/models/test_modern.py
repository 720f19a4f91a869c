"""Modern: with every part off it is GPT, and each part is its formula."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from modern_parts import DEFAULT, GAIN_FREE, PARTS, SIZE, T, V, lively, modern, random_ids
from torch import Tensor, nn

from lmlab.config import build
from lmlab.errors import LabError
from lmlab.models import parts
from lmlab.models.attention import attention_weights
from lmlab.models.gpt import GPT, attend
from lmlab.models.modern import Attention, Shared
from lmlab.training.optimizers.rules import roles_of


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attention(n_embd: int = 16, n_head: int = 4, n_kv_head: int = 4, **given: Any) -> Attention:
    torch.manual_seed(0)
    off: dict[str, Any] = {
        "dropout": 0.0,
        "window": None,
        "qk_norm": None,
        "head_gate": False,
        "value_residual": False,
        "value_vocab_size": None,
    }
    return Attention(n_embd, n_head, n_kv_head, **{**off, **given})


def shared(x: Tensor, idx: Tensor | None = None, **given: Any) -> Shared:
    idx = torch.zeros(x.shape[:2], dtype=torch.int64) if idx is None else idx
    return Shared(idx, x, **{"turns": None, **given})


# --- with every part off ---------------------------------------------------------------------


def test_with_every_part_off_it_is_gpt_to_the_last_bit():
    torch.manual_seed(0)
    gpt = GPT(V, T, **SIZE)
    model = modern()
    theirs, ours = gpt.state_dict(), model.state_dict()
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)  # drawn alike

    idx, logits = random_ids(2, T), []
    for one in (gpt, model):
        nn.init.normal_(one.lm_head.weight, generator=torch.Generator().manual_seed(2))
        logits.append(one(idx))
        logits[-1].square().mean().backward()
    assert torch.equal(*logits)
    for one, other in zip(gpt.parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_attention_may_have_a_dropout_of_its_own():
    def trained(**given: float) -> Tensor:
        model, idx = lively(**given).train(), random_ids(2, T)
        torch.manual_seed(3)
        return model(idx)

    plain = trained()
    assert torch.equal(trained(dropout=0.3), trained(dropout=0.3, attention_dropout=0.3))
    for one in ({"dropout": 0.3, "attention_dropout": 0.0}, {"attention_dropout": 0.3}):
        assert not torch.equal(trained(**one), plain)
    model = lively(dropout=0.3, attention_dropout=0.0).train()
    assert [block.attention.dropout for block in model.blocks] == [0.0] * 3
    assert [block.dropout.n_dropped for block in model.blocks] == [77] * 3


@pytest.mark.parametrize("p", [0.0, 0.004, 0.25, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_as_much_as_it_says(p):
    torch.manual_seed(1)
    x = torch.full((101, 1001), 3.0, requires_grad=True)
    dropout = parts.Dropout(p)
    y = dropout(x)
    kept = y != 0
    p = round(256 * p) / 256
    assert abs(1 - kept.float().mean() - p) < 5 * math.sqrt(p * (1 - p) / x.numel()) + 1e-9
    torch.testing.assert_close(y[kept], torch.full((int(kept.sum()),), 3 / (1 - p)))
    y.sum().backward()
    assert torch.equal(x.grad, y.detach() / 3)
    for dim in (0, 1):  # neighbours know nothing of each other
        both = kept.narrow(dim, 1, kept.shape[dim] - 1) & kept.narrow(dim, 0, kept.shape[dim] - 1)
        assert abs(both.float().mean() - (1 - p) ** 2) < 0.01
    assert dropout.eval()(x) is x
    assert dropout.train()(x.bfloat16()).dtype == torch.bfloat16


def test_dropout_follows_the_default_generator():
    x, dropout, drawn = torch.ones(7, 13), parts.Dropout(0.5), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(dropout(x))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_it_takes_over_the_weights_of_a_gpt():
    gpt, model, idx = GPT(V, T, **SIZE), modern(), random_ids(2, T)
    assert not torch.equal(gpt(idx), model(idx))
    model.load_state_dict(gpt.state_dict())
    assert torch.equal(gpt(idx), model(idx))


def test_the_default_has_the_parts_of_its_config(composed):
    sizes = [f"model.{name}={n}" for name, n in SIZE.items()]
    torch.manual_seed(0)
    built = build.model(composed("model=modern", *sizes)["model"], V, T)
    expected, idx = modern(**DEFAULT).state_dict(), random_ids(2, T)
    assert list(built.state_dict()) == list(expected)
    assert all(torch.equal(weight, expected[name]) for name, weight in built.state_dict().items())
    livened = lively()
    built.load_state_dict(livened.state_dict())
    assert torch.equal(built(idx), livened(idx))


# --- norms and feed-forward ------------------------------------------------------------------


def test_norms_are_their_formulas():
    x, gain = 3 * random(2, 5, 16) + 1, random(16, seed=2)
    centred = x - x.mean(-1, keepdim=True)
    by_deviation = centred / centred.square().mean(-1, keepdim=True).sqrt()
    by_length = x / x.square().mean(-1, keepdim=True).sqrt()
    for kind, expected in ((parts.LayerNorm, by_deviation), (parts.RMSNorm, by_length)):
        norm = kind(16)
        norm.weight.data = gain
        assert [name for name, _ in norm.named_parameters()] == ["weight"]
        torch.testing.assert_close(norm(x), expected * gain, rtol=1e-4, atol=1e-5)
        plain = kind(16, gain=False)
        assert list(plain.parameters()) == []
        torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-5)


def test_feed_forwards_are_their_formulas():
    x = random(2, 5, 8)
    by_kind = {
        parts.GELU: F.gelu,
        parts.ReLUSquared: lambda h: h.clamp(min=0) ** 2,
        parts.SwiGLU: lambda h: h[..., :16] * h[..., :16].sigmoid() * h[..., 16:],
    }
    for kind, bend in by_kind.items():
        layer = kind(8, width=3.0)
        expected = bend(x @ layer[0].weight.T) @ layer[2].weight.T
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("n_embd", [6, 32, 48])
def test_feed_forwards_have_as_many_parameters(n_embd):
    sizes = [
        sum(p.numel() for p in kind(n_embd).parameters())
        for kind in (parts.GELU, parts.ReLUSquared, parts.SwiGLU)
    ]
    assert sizes[0] == sizes[1] == 8 * n_embd**2
    assert abs(sizes[2] - sizes[0]) <= 3 * n_embd / 2  # it is rounded to a whole width


# --- positions -------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rotated", [2, 6, 8])
def test_rotation_turns_each_pair_by_its_own_angle(n_rotated):
    x, base = random(5, 8), 100.0
    rotated = parts.rotate(x, parts.turns(torch.arange(5), n_rotated, base))
    for t in range(5):
        for i in range(n_rotated // 2):
            angle = t * base ** (-2 * i / n_rotated)
            a, b = x[t, 2 * i : 2 * i + 2].tolist()
            expected = [
                a * math.cos(angle) - b * math.sin(angle),
                a * math.sin(angle) + b * math.cos(angle),
            ]
            torch.testing.assert_close(rotated[t, 2 * i : 2 * i + 2], torch.tensor(expected))
    assert torch.equal(rotated[:, n_rotated:], x[:, n_rotated:])


def test_rotated_vectors_know_only_how_far_they_are_apart():
    query, key = random(8), random(8, seed=2)
    turn = parts.turns(torch.arange(30), 8, 50.0)
    products = parts.rotate(query.expand(30, 8), turn) @ parts.rotate(key.expand(30, 8), turn).T
    for far in range(-29, 30):
        along = products.diagonal(far)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-4)
    assert products[0].std() > 0.1


def test_without_positions_only_the_mask_tells_them_apart():
    model, idx = lively(rope_base=None, n_layer=1), random_ids(1, T)
    swapped = idx[:, [1, 0, *range(2, T)]]
    torch.testing.assert_close(model(idx)[:, -1], model(swapped)[:, -1])
    rotated = lively(n_layer=1)
    assert not torch.allclose(rotated(idx)[:, -1], rotated(swapped)[:, -1], atol=1e-3)


def test_rms_norm_before_the_rotation_is_rms_norm_after_it():
    x, turn = random(3, 7, 8), parts.turns(torch.arange(7), 8, 100.0)
    norm = parts.RMSNorm(8, gain=False)
    torch.testing.assert_close(parts.rotate(norm(x), turn), norm(parts.rotate(x, turn)))


# --- attention -------------------------------------------------------------------------------


def test_heads_that_share_keys_are_heads_with_equal_keys():
    x = random(2, T, 16)
    for n_kv_head in (1, 2):
        few, many = attention(n_kv_head=n_kv_head), attention()
        size = few.head_size
        query, key, value = few.query_key_value.weight.split([16, *[n_kv_head * size] * 2])
        repeated = [
            t.view(n_kv_head, size, 16).repeat_interleave(4 // n_kv_head, dim=0).flatten(0, 1)
            for t in (key, value)
        ]
        many.query_key_value.weight.data = torch.cat([query, *repeated]).detach()
        many.projection.weight.data = few.projection.weight.data
        torch.testing.assert_close(few(x, shared(x)), many(x, shared(x)))


@pytest.mark.parametrize("window", [1, 3, T + 5])
def test_a_window_is_as_wide_as_it_says(window):
    layer, x = attention(window=window), random(1, T, 16)
    x.requires_grad_()
    for t in range(T):
        (grad,) = torch.autograd.grad(layer(x, shared(x))[0, t].sum(), x)
        seen = grad[0].abs().sum(-1) > 0
        assert seen.nonzero().flatten().tolist() == list(range(max(0, t - window + 1), t + 1))


def test_windows_alternate_over_the_layers():
    model = modern(n_layer=5, window=[4, None])
    assert [block.attention.window for block in model.blocks] == [4, None, 4, None, 4]
    assert [block.attention.window for block in modern(window=7).blocks] == [7, 7, 7]


@pytest.mark.parametrize(("n_queries", "n_keys"), [(9, 9), (1, 4), (4, 9), (3, 3)])
@pytest.mark.parametrize("window", [None, 4])
def test_attention_with_a_window_is_the_written_out_one_in_every_precision(
    n_queries, n_keys, window
):
    query = random(2, 3, n_queries, 8)
    key, value = random(2, 3, n_keys, 8, seed=2), random(2, 3, n_keys, 8, seed=3)
    expected = attention_weights(query, key, window=window) @ value
    torch.testing.assert_close(attend(query, key, value, 0.0, window), expected)
    low = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), 0.0, window)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.02, atol=0.03)


def test_queries_and_keys_are_normalised_and_then_rotated():
    x, turn = random(2, T, 16), parts.turns(torch.arange(T), 4, 100.0)
    layer = attention(qk_norm=GAIN_FREE)
    query, key, value = (
        t.view(2, T, 4, 4).transpose(1, 2) for t in layer.query_key_value(x).split(16, dim=-1)
    )
    query, key = (parts.rotate(F.layer_norm(t, (4,)), turn) for t in (query, key))
    out = (attention_weights(query, key) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x, shared(x, turns=turn)), layer.projection(out))


def test_with_qk_norm_the_size_of_the_weights_counts_no_more():
    x, layer = random(2, T, 16), attention(qk_norm=GAIN_FREE)
    before = layer(x, shared(x))
    layer.query_key_value.weight.data[:32] *= 100  # those of queries and keys
    torch.testing.assert_close(layer(x, shared(x)), before, rtol=1e-3, atol=1e-3)


def test_each_head_has_a_gate():
    x = random(2, T, 16)
    plain, gated = attention(), attention(head_gate=True)
    gated.load_state_dict(plain.state_dict(), strict=False)
    nn.init.zeros_(gated.gate.weight)
    torch.testing.assert_close(gated(x, shared(x)), plain(x, shared(x)) / 2)
    gated.gate.weight.data[2] = random(16)
    plain.projection.weight.data *= 0.5
    plain.projection.weight.data[:, 8:12] *= 2  # of the third head
    through = torch.sigmoid(x @ gated.gate.weight[2])[..., None]
    third = attention()
    third.load_state_dict(plain.state_dict())
    third.projection.weight.data[:, :8] = third.projection.weight.data[:, 12:] = 0.0
    expected = plain(x, shared(x)) + (through - 1) * third(x, shared(x))
    torch.testing.assert_close(gated(x, shared(x)), expected)


def test_maps_times_values_are_what_a_layer_hands_on():
    layer, x = attention(n_kv_head=2, window=5, qk_norm=GAIN_FREE), random(1, T, 16)
    turn, maps = parts.turns(torch.arange(T), 4, 100.0), []
    layer.__dict__["watch"] = maps.append
    out = layer(x, shared(x, turns=turn))
    value = layer.query_key_value(x)[..., 24:].view(1, T, 2, 4).repeat_interleave(2, dim=2)
    gathered = torch.einsum("bhts,bshd->bthd", maps[0], value).flatten(2)
    torch.testing.assert_close(layer.projection(gathered), out)


def test_a_token_has_a_value_of_its_own_whatever_surrounds_it():
    x, idx = random(2, T, 16), random_ids(2, T)
    layer, plain = attention(value_vocab_size=V, n_kv_head=2), attention(n_kv_head=2)
    layer.load_state_dict(plain.state_dict(), strict=False)
    query, key, value = layer.query_key_value(x).split([16, 8, 8], dim=-1)
    value = value + layer.value_embedding.weight[idx]
    key, value = (t.view(2, T, 2, 4).repeat_interleave(2, 2).transpose(1, 2) for t in (key, value))
    wei = attention_weights(query.view(2, T, 4, 4).transpose(1, 2), key)
    expected = layer.projection((wei @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, shared(x, idx)), expected)


# --- streams ---------------------------------------------------------------------------------


def test_values_are_mixed_with_those_of_the_first_layer():
    x, first = random(2, T, 16), random(2, 4, T, 4, seed=2)
    layer = attention(value_residual=True)
    assert layer.value_residual.weight.item() == 0.5
    layer.value_residual.weight.data.fill_(0.3)
    query, key, value = (
        t.view(2, T, 4, 4).transpose(1, 2) for t in layer.query_key_value(x).split(16, dim=-1)
    )
    mixed = 0.7 * value + 0.3 * first
    out = (attention_weights(query, key) @ mixed).transpose(1, 2).flatten(2)
    seen = shared(x, first_value=first)
    torch.testing.assert_close(layer(x, seen), layer.projection(out))
    assert seen.first_value is first
    of_the_first = shared(x)
    attention()(x, of_the_first)
    torch.testing.assert_close(of_the_first.first_value, value)  # drawn alike
    model = modern(value_residual=True)
    assert [b.attention.value_residual is None for b in model.blocks] == [True, False, False]


def test_the_embedding_comes_in_at_each_layer():
    model, idx = lively(embedding_shortcut=True), random_ids(2, T)
    for block in model.blocks:
        block.attention.projection.weight.data.zero_()
        block.feed_forward[2].weight.data.zero_()
        block.shortcut.weight.data = torch.tensor([0.5, 2.0])
    x = embedded = model.token_embedding(idx)
    for _ in model.blocks:
        x = 0.5 * x + 2 * embedded
    expected = parts.soft_capped(model.lm_head(model.final_norm(x)), 15.0)
    torch.testing.assert_close(model(idx), expected)


@pytest.mark.parametrize(
    ("n_layer", "expected"),
    [(2, [None, 0]), (3, [None, None, 0]), (4, [None, None, 1, 0]), (5, [None] * 3 + [1, 0])],
)
def test_the_last_layers_add_what_the_first_made(n_layer, expected):
    model, idx = lively(u_net=True, n_layer=n_layer), random_ids(2, T)
    skips = [block.skip for block in model.blocks]
    assert [skip if skip is None else skip.layer for skip in skips] == expected
    seen: list[tuple[Tensor, Tensor]] = []
    for block in model.blocks:
        block.attention_norm.register_forward_hook(lambda m, args, out: seen.append(args[0]))
        block.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    model(idx)
    inside, around = seen[::2], seen[1::2]
    for i, layer in enumerate(expected):
        x = around[i][0]
        if layer is not None:
            x = x + skips[i].weight * around[layer][1]
        torch.testing.assert_close(inside[i], x)


@pytest.mark.parametrize("width", [2, 4, 12])
@pytest.mark.parametrize("length", [1, 3, 9])
def test_a_short_convolution_adds_the_positions_before(width, length):
    conv = parts.ShortConv(5, width)
    x = torch.randn(2, length, 5)
    assert torch.equal(conv(x), x)
    nn.init.normal_(conv.weight)
    kernel = torch.cat([torch.ones(1, 5), conv.weight.view(width - 1, 5)])  # from near to far
    by_torch = F.conv1d(F.pad(x.mT, (width - 1, 0)), kernel.flip(0).T[:, None], groups=5).mT
    torch.testing.assert_close(conv(x), by_torch)


def test_turns_are_exact_where_weights_have_16_bits():
    positions = torch.arange(50)
    exact = parts.turns(positions, 8, 100.0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(parts.turns(positions, 8, 100.0), exact)
    finally:
        torch.set_default_dtype(torch.float32)


# --- tables of tokens, and the read-out ------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("times", [1, 10])
def test_each_n_gram_has_a_row_of_its_own(order, times):
    table, idx = parts.NGrams(order, V, times * V**order, 3), random_ids(4, 9)
    assert table.n_rows == V**order
    rows = table(idx)
    assert (rows[:, : order - 1] == 0).all()
    for b in range(4):
        for t in range(order - 1, 9):
            digits = idx[b, t - order + 1 : t + 1].tolist()
            number = sum(digit * V**i for i, digit in enumerate(reversed(digits)))
            assert torch.equal(rows[b, t], table.table.weight[number])
    for length in range(1, order):
        assert table(idx[:, :length]).tolist() == [[[0.0] * 3] * length] * 4


@pytest.mark.parametrize("vocab_size", [29, 50_257, 128_256])
def test_hashed_triples_share_all_rows_about_evenly(vocab_size):
    """Also where their number is more than 64 bits hold."""
    n_rows = 100
    table = parts.NGrams(3, vocab_size, n_rows, 1)
    table.table.weight.data = torch.arange(n_rows)[:, None].float()
    tokens = torch.arange(vocab_size - 29, vocab_size)
    triples = torch.cartesian_prod(tokens, tokens, tokens)
    rows = table(triples)[:, 2, 0].long()
    counts = rows.bincount(minlength=n_rows)  # 244 triples a row
    assert counts.min() > 150
    assert counts.max() < 350
    for i in range(3):  # each of the three tokens matters
        other = triples.clone()
        other[:, i] = tokens[0]
        assert (table(other)[:, 2, 0].long() != rows).float().mean() > 0.9


def test_hashed_pairs_share_all_rows_about_evenly():
    vocab_size, n_rows = 300, 1000
    table = parts.NGrams(2, vocab_size, n_rows, 1)
    table.table.weight.data = torch.arange(n_rows)[:, None].float()
    tokens = torch.arange(vocab_size)
    pairs = torch.cartesian_prod(tokens, tokens)
    rows = table(pairs)[:, 1, 0].long()
    counts = rows.bincount(minlength=n_rows)  # 90 pairs a row
    assert counts.min() > 40
    assert counts.max() < 140
    assert torch.equal(rows, table(pairs.flip(0))[:, 1, 0].long().flip(0))


def test_bigram_logits_are_added_to_the_read_out():
    model, plain = lively(bigram_logits="all", soft_cap=None), lively(soft_cap=None)
    model.load_state_dict(plain.state_dict(), strict=False)
    idx = random_ids(2, T)
    torch.testing.assert_close(model(idx), plain(idx) + model.bigram_logits(idx))


def test_tied_weights_are_one():
    model = modern(tied=True)
    assert model.lm_head.weight is model.token_embedding.weight
    assert roles_of(model)[model.lm_head.weight] == {"embeddings", "readout"}


def test_capped_logits_keep_their_order_and_small_ones_their_size():
    logits = torch.linspace(-200, 200, 401)
    capped = parts.soft_capped(logits, 50.0)
    assert capped.abs().max() < 50
    assert (capped.diff() > 0).all()
    assert capped[200] == 0
    torch.testing.assert_close(capped[199:202], logits[199:202], rtol=1e-3, atol=0)
    low = parts.soft_capped(logits.bfloat16(), 50.0)
    assert low.dtype == torch.float32


# --- initialisation --------------------------------------------------------------------------


def test_with_zero_projections_every_block_begins_as_the_identity():
    model, idx = modern(**DEFAULT), random_ids(2, T)
    expected = model.lm_head(model.final_norm(model.token_embedding(idx)))
    torch.testing.assert_close(model(idx), parts.soft_capped(expected, 15.0))


@pytest.mark.parametrize(
    "part",
    [
        "embedding shortcut",
        "value embeddings",
        "bigram embedding",
        "bigram logits",
        "hashed bigrams",
    ],
)
def test_what_begins_at_zero_changes_nothing_at_first(part):
    given = {**DEFAULT, "projection_scale": 1.0, "n_kv_head": PARTS[part].get("n_kv_head")}
    model, plain = modern(**{**given, **PARTS[part]}), modern(**given)
    model.load_state_dict(plain.state_dict(), strict=False)
    idx = random_ids(2, T)
    assert torch.equal(model(idx), plain(idx))


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_projections_begin_at_a_scale_of_gpts(scale):
    model = modern(n_embd=64, n_layer=2, projection_scale=scale)
    for block in model.blocks:
        for weight in (block.attention.projection.weight, block.feed_forward[2].weight):
            assert weight.std().item() == pytest.approx(scale * 0.02 / 2, rel=0.1)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_kv_head": 3}, r"model\.n_kv_head=3: n_head=4 is not divisible by it"),
        ({"window": 0}, r"model\.window=0: give numbers of at least 1"),
        ({"window": []}, r"model\.window=\[\]: give"),
        ({"window": [4, 0]}, r"model\.window=\[4, 0\]: give"),
        ({"rope_base": 1e4, "rope_fraction": 0.1}, r"rope_fraction=0\.1: .* from 0\.25 to 1"),
        ({"rope_base": 1e4, "n_embd": 12}, r"n_embd / n_head = 3 is odd"),
        ({"u_net": True, "n_layer": 1}, r"u_net=true with n_layer=1: it needs two"),
        ({"bigram_logits": 0}, r"bigram_logits=0: give a number of rows, all \(121\), or null"),
        ({"bigram_embedding": "some"}, r"bigram_embedding=some: give"),
        ({"trigram_embedding": 0}, r"trigram_embedding=0: .* all \(1,331\), or null"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(given, said):
    with pytest.raises(LabError, match=said) as refused:
        modern(**given)
    assert "\n" not in str(refused.value)


def test_a_temperature_divides_logits_outside_training_alone():
    plain, warm = lively(), lively(temperature=1.3)
    idx = random_ids(2, T)
    assert torch.equal(plain.train()(idx), warm.train()(idx))
    torch.testing.assert_close(warm.eval()(idx), plain.eval()(idx) / 1.3)
