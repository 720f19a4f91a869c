"""Logits to tokens to text: what is kept, what is drawn, and when it is handed over."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from modern_parts import PARTS, T, choices, lively
from torch import nn

from lmlab.core.generate import stream_text
from lmlab.data.tokenizer import ByteTokenizer, CharTokenizer, GPT2Tokenizer
from lmlab.models.attention import Head, MultiHead, ProjectedMultiHead
from lmlab.models.averaging import Average
from lmlab.models.bigram import Bigram
from lmlab.models.gpt import GPT
from lmlab.models.memory import Memory, Past
from lmlab.models.ngram import NGram
from lmlab.models.sampling import generate, probabilities
from lmlab.models.transformer import Block, FeedForward, PreNormBlock, Stack, WideFeedForward

temperatures = st.floats(0.5, 10)  # with these logits no probability is too small for a float32


@st.composite
def distinct_logits(draw):
    """(B, vocab_size), no two of a row alike."""
    B, vocab_size = draw(st.integers(1, 3)), draw(st.integers(1, 30))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    ranks = torch.stack([torch.randperm(vocab_size, generator=generator) for _ in range(B)])
    return ranks * draw(st.floats(0.05, 1)) - 3.0


# --- probabilities ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(distinct_logits(), temperatures)
def test_without_a_choice_it_is_the_softmax_at_that_temperature(logits, temperature):
    probs = probabilities(logits, temperature)
    torch.testing.assert_close(probs, (logits / temperature).softmax(-1))
    torch.testing.assert_close(probabilities(logits), logits.softmax(-1))


@settings(max_examples=60, deadline=None)
@given(
    distinct_logits(),
    st.one_of(st.just(0.0), temperatures),
    st.one_of(st.none(), st.integers(1, 40)),
    st.one_of(st.none(), st.floats(0.01, 1)),
)
def test_each_row_sums_to_one(logits, temperature, top_k, top_p):
    probs = probabilities(logits, temperature, top_k, top_p)
    assert probs.shape == logits.shape
    assert probs.dtype == logits.dtype
    assert (probs >= 0).all()
    torch.testing.assert_close(probs.sum(-1), torch.ones(len(logits)))


@settings(max_examples=30, deadline=None)
@given(distinct_logits())
def test_temperature_zero_leaves_the_likeliest(logits):
    expected = F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    assert torch.equal(probabilities(logits, 0), expected)
    assert torch.equal(probabilities(logits, 0, top_k=3, top_p=0.5), expected)


@pytest.mark.parametrize("temperature", [1e-3, 1e-38, 1e-45, 1e-300])
def test_a_temperature_near_zero_is_like_zero(temperature):
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, -5.0, 0.0]])
    assert torch.equal(probabilities(logits, temperature), probabilities(logits, 0))


@settings(max_examples=60, deadline=None)
@given(distinct_logits(), temperatures, st.integers(1, 40))
def test_top_k_keeps_the_k_likeliest_in_proportion(logits, temperature, k):
    probs, whole = probabilities(logits, temperature, top_k=k), probabilities(logits, temperature)
    kept = probs > 0
    assert (kept.sum(-1) == min(k, logits.shape[-1])).all()
    for row, likely in zip(logits, kept, strict=True):
        assert likely.all() or row[likely].min() > row[~likely].max()
    expected = torch.where(kept, whole, 0)
    torch.testing.assert_close(probs, expected / expected.sum(-1, keepdim=True))


@pytest.mark.parametrize("top_p", [5e-324, 1e-300, 1e-30])
def test_the_smallest_top_p_leaves_the_likeliest(top_p):
    probs = probabilities(torch.tensor([[1.0, 3.0, 2.0]]), top_p=top_p)
    assert probs.tolist() == [[0.0, 1.0, 0.0]]


def test_top_k_keeps_every_token_that_ties_with_the_kth():
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0]])
    assert (probabilities(logits, top_k=2) > 0).tolist() == [[True, False, True, True, True]]
    assert (probabilities(logits, top_k=1) > 0).tolist() == [[True, False, False, False, False]]


@settings(max_examples=50, deadline=None)
@given(distinct_logits(), temperatures, st.floats(0.01, 0.99))
def test_top_p_keeps_the_fewest_likeliest_that_hold_p(logits, temperature, p):
    probs, whole = probabilities(logits, temperature, top_p=p), probabilities(logits, temperature)
    rounding = 1e-5
    for kept, row, before in zip(probs > 0, probs, whole, strict=True):
        assert kept.any()
        assert kept.all() or before[kept].min() > before[~kept].max()
        assert before[kept].sum() >= p - rounding
        assert before[kept].sum() - before[kept].min() < p + rounding
        torch.testing.assert_close(row[kept], before[kept] / before[kept].sum())


def test_top_p_stops_once_p_is_held_exactly():
    probs = probabilities(torch.zeros(1, 4), top_p=0.5)
    assert sorted(probs[0].tolist()) == [0, 0, 0.5, 0.5]


def test_top_p_counts_in_what_top_k_left():
    # Of 0.4, 0.3, 0.2, 0.1 top_k=2 leaves 4/7 and 3/7, and 4/7 alone hold one half.
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    expected = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(probabilities(logits, top_k=2, top_p=0.5), expected)
    assert (probabilities(logits, top_p=0.5) > 0).tolist() == [[False, True, False, True]]


# --- generate --------------------------------------------------------------------------------


def small_gpt() -> nn.Module:
    torch.manual_seed(0)
    model = GPT(11, 8, n_layer=1, n_head=2, n_embd=16)
    nn.init.normal_(model.lm_head.weight)  # opinions strong enough to tell contexts apart
    return model.eval()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def continuation(model: nn.Module, idx: torch.Tensor, n: int, **settings) -> torch.Tensor:
    return torch.cat(list(generate(model, idx, n, **settings)), dim=1)


def test_the_same_seed_gives_the_same_tokens():
    model, idx = small_gpt(), torch.zeros(3, 1, dtype=torch.int64)
    first = continuation(model, idx, 20, generator=seeded(1))
    assert first.shape == (3, 20)
    assert torch.equal(continuation(model, idx, 20, generator=seeded(1)), first)
    assert not torch.equal(continuation(model, idx, 20, generator=seeded(2)), first)


def test_without_a_generator_it_draws_as_the_notebook_does():
    model = small_gpt()
    torch.manual_seed(1337)
    ours = continuation(model, torch.tensor([[0]]), 6)
    next_draw = torch.rand(1)

    torch.manual_seed(1337)
    idx = torch.tensor([[0]])
    for _ in range(6):
        logits = model(idx)[:, -1, :]
        idx = torch.cat((idx, torch.multinomial(F.softmax(logits, dim=-1), 1)), dim=1)
    assert torch.equal(ours, idx[:, 1:])
    assert torch.equal(next_draw, torch.rand(1))


def test_with_a_generator_the_default_one_is_left_alone():
    model = small_gpt()
    before = torch.random.get_rng_state()
    continuation(model, torch.tensor([[0]]), 5, generator=seeded(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_prompt_longer_than_the_block_counts_by_its_tail():
    model = small_gpt()
    prompt = torch.randint(11, (2, 30), generator=seeded(0))
    whole = continuation(model, prompt, 20, generator=seeded(1))
    tail = continuation(model, prompt[:, -8:], 20, generator=seeded(1))
    shorter = continuation(model, prompt[:, -4:], 20, generator=seeded(1))
    assert torch.equal(whole, tail)
    assert not torch.equal(whole, shorter)


def test_each_token_is_handed_over_before_the_next_is_computed():
    model, widths = small_gpt(), []

    @model.register_forward_hook
    def note(module, args, logits):
        widths.append(args[0].shape[1])
        assert not logits.requires_grad

    tokens = generate(model, torch.zeros(3, 6, dtype=torch.int64), 1000)
    assert widths == []
    for n, token in enumerate(itertools.islice(tokens, 4), start=1):
        assert token.shape == (3, 1)
        assert token.dtype == torch.int64
        assert len(widths) == n
        assert torch.is_grad_enabled()  # who consumes the tokens may train meanwhile
    assert widths == [6, 1, 1, 8]


def test_the_likeliest_path_needs_no_luck():
    model, idx = small_gpt(), torch.tensor([[3]])
    greedy = continuation(model, idx, 12, temperature=0, generator=seeded(1))
    assert torch.equal(continuation(model, idx, 12, temperature=0, generator=seeded(2)), greedy)
    assert torch.equal(continuation(model, idx, 12, top_k=1), greedy)
    for t in range(12):
        seen = torch.cat([idx, greedy[:, :t]], dim=1)[:, -8:]
        assert model(seen)[:, -1].argmax(-1) == greedy[:, t]


def test_tokens_are_as_frequent_as_they_are_likely():
    model, n = Bigram(3, 4), 20_000
    model.table.weight.data = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(3, 1)
    tokens = continuation(model, torch.zeros(n, 1, dtype=torch.int64), 1, generator=seeded(0))
    frequencies = tokens.flatten().bincount(minlength=3) / n
    torch.testing.assert_close(frequencies, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.015)


# --- stream_text -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40))
def test_pieces_of_any_bytes_join_to_what_decode_says(data):
    tokenizer = ByteTokenizer()
    pieces = list(stream_text(tokenizer, data))
    assert "".join(pieces) == tokenizer.decode(data)
    assert "" not in pieces


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_pieces_of_a_text_are_its_characters_however_many_bytes_each_has(text):
    tokenizer = ByteTokenizer()
    assert list(stream_text(tokenizer, tokenizer.encode(text))) == list(text)


def test_a_character_cut_in_two_by_tokens_comes_whole():
    pytest.importorskip("tiktoken")
    ranks = [bytes([byte]) for byte in range(256)] + [b"5 \xe2\x82", b"\xac!"]
    tokenizer = GPT2Tokenizer(ranks)
    assert list(stream_text(tokenizer, [256, 257])) == ["5 ", "€!"]


def test_a_character_never_finished_is_marked_at_the_end():
    assert list(stream_text(ByteTokenizer(), "né".encode()[:-1])) == ["n", "\ufffd"]


def test_text_comes_while_tokens_are_still_being_made():
    tokenizer = CharTokenizer("abc")
    tokens = itertools.cycle([0, 1, 2])  # without end
    assert "".join(itertools.islice(stream_text(tokenizer, tokens), 7)) == "abcabca"


# --- what a model remembers ------------------------------------------------------------------

V, BLOCK = 11, 24


def strong(model: nn.Module) -> nn.Module:
    """Opinions that tell contexts apart, so that a lost one would show."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4)
    return model.eval()


def ladder() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    attention = partial(MultiHead, n_head=2)
    layers = {
        "bag of words": Average,
        "head": Head,
        "unscaled": partial(Head, scaled=False),
        "block": partial(Block, attention=attention, feed_forward=FeedForward),
        "pre-norm": partial(
            PreNormBlock,
            attention=partial(ProjectedMultiHead, n_head=2),
            feed_forward=WideFeedForward,
        ),
    }
    models: dict[str, nn.Module] = {
        name: Stack(V, BLOCK, n_embd=8, n_layer=2, layer=layer) for name, layer in layers.items()
    }
    models |= {"gpt": GPT(V, BLOCK, n_layer=2, n_head=2, n_embd=8), "bigram": Bigram(V, BLOCK)}
    for order in (1, 2, 4):
        counts = models[f"{order}-gram"] = NGram(V, BLOCK, order=order)
        counts.fit(torch.randint(V, (300,), generator=seeded(3)))
    return {name: strong(model) for name, model in models.items()}


LADDER = ladder()


def recomputed(
    model: nn.Module, idx: torch.Tensor, n: int, seeds: list[int], sees: int | None = BLOCK
) -> torch.Tensor:
    """One sequence and one token at a time, all of it anew: the definition.

    `sees` is how many of the last tokens count; None: all.
    """
    rows = []
    for row, seed in zip(idx, seeds, strict=True):
        whole, source = row[None], seeded(seed)
        for _ in range(n):
            with torch.no_grad():
                probs = model(whole if sees is None else whole[:, -sees:])[:, -1].softmax(-1)
            whole = torch.cat([whole, torch.multinomial(probs, 1, generator=source)], dim=1)
        rows.append(whole[:, -n:])
    return torch.cat(rows)


@pytest.mark.parametrize("name", LADDER)
@pytest.mark.parametrize("prompt", [1, 7, BLOCK - 1, BLOCK, BLOCK + 5])
def test_what_is_remembered_changes_no_token_up_to_the_block_size_and_past_it(name, prompt):
    model, n, seeds = LADDER[name], BLOCK + 10, [5, 6, 7]
    idx = torch.randint(V, (3, prompt), generator=seeded(1))
    ours = continuation(model, idx, n, generator=[seeded(s) for s in seeds])
    assert torch.equal(ours, recomputed(model, idx, n, seeds))


@pytest.mark.parametrize("name", ["gpt", "pre-norm"])
def test_a_sequence_does_not_depend_on_those_beside_it(name):
    model, idx = LADDER[name], torch.zeros(1, 1, dtype=torch.int64)
    many = continuation(model, idx.expand(64, 1), 40, generator=[seeded(s) for s in range(64)])
    for s in (0, 1, 40, 63):
        assert torch.equal(continuation(model, idx, 40, generator=[seeded(s)])[0], many[s])


@pytest.mark.parametrize("name", ["gpt", "head", "bag of words"])
def test_each_new_token_costs_one_position(name):
    model, seen = LADDER[name], []
    with model.register_forward_hook(lambda module, args, logits: seen.append(args[0].shape[1])):
        continuation(model, torch.zeros(2, 5, dtype=torch.int64), BLOCK, generator=seeded(0))
    assert seen == [5, *[1] * (BLOCK - 5), *[BLOCK] * 4]


class LooksBack(nn.Module):
    """Somebody's own layer, which knows nothing of remembering."""

    def __init__(self, n_embd: int):
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(dim=1)


class LoudBlock(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + x.mean(dim=1, keepdim=True)


class LoudHead(Head):
    """What a Head says of its own forward does not hold for this one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + x.mean(dim=1, keepdim=True)


def torchs_own(n_embd: int) -> nn.Module:
    return nn.TransformerEncoderLayer(n_embd, 2, dim_feedforward=8, batch_first=True)


@pytest.mark.parametrize(
    "layer",
    [
        LooksBack,
        LoudHead,
        torchs_own,
        partial(LoudBlock, attention=Head, feed_forward=FeedForward),
        partial(Block, attention=Head, feed_forward=LooksBack),
    ],
    ids=["layer", "of a head", "torch's", "of a block", "within"],
)
def test_a_layer_of_ones_own_is_always_given_everything(layer):
    torch.manual_seed(2)
    model = strong(Stack(V, BLOCK, n_embd=8, n_layer=1, layer=layer))
    idx = torch.zeros(1, 1, dtype=torch.int64)
    ours = continuation(model, idx, 30, generator=[seeded(1)])
    assert torch.equal(ours, recomputed(model, idx, 30, [1]))


class Mixed(nn.Module):
    """Somebody's own layer that remembers, built of modules of torch."""

    past: Past | None = None

    def __init__(self, n_embd: int):
        super().__init__()
        self.bends = nn.Sequential(nn.Linear(n_embd, n_embd), nn.SiLU(), nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n_new, x = x.shape[1], self.bends(x)
        if self.past is not None:
            (x,) = self.past.extend(x)
        return x.cumsum(dim=1)[:, -n_new:] / 8


class Alone(nn.Module):
    positionwise = True

    def __init__(self, n_embd: int):
        super().__init__()
        self.norm = nn.RMSNorm(n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.norm(x).sigmoid()


@pytest.mark.parametrize("layer", [Mixed, Alone], ids=["past", "positionwise"])
def test_a_layer_of_ones_own_that_says_so_is_given_new_positions_alone(layer):
    torch.manual_seed(2)
    model, seen = strong(Stack(V, BLOCK, n_embd=8, n_layer=2, layer=layer)), []
    idx = torch.zeros(1, 3, dtype=torch.int64)
    with model.register_forward_hook(lambda module, args, logits: seen.append(args[0].shape[1])):
        ours = continuation(model, idx, BLOCK, generator=[seeded(1)])
    assert seen == [3, *[1] * (BLOCK - 3), *[BLOCK] * 2]
    assert torch.equal(ours, recomputed(model, idx, BLOCK, [1]))


def test_a_model_is_as_ever_between_two_tokens():
    model, idx = LADDER["gpt"], torch.arange(6)[None]
    before = model(idx)
    tokens = generate(model, idx, 8, generator=seeded(0))
    for _ in range(3):
        next(tokens)
        assert torch.equal(model(idx), before)


# --- and what its parts remember -------------------------------------------------------------


def check_modern(model: nn.Module, idx: torch.Tensor, n: int) -> None:
    seeds = list(range(len(idx)))
    ours = continuation(model, idx, n, generator=[seeded(s) for s in seeds])
    sees = None if model.endless else T
    assert torch.equal(ours, recomputed(model, idx, n, seeds, sees))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("prompt", [1, T - 3, T + 5])
def test_each_part_remembers_what_it_needs(part, prompt):
    idx = torch.randint(V, (3, prompt), generator=seeded(1))
    check_modern(lively(**PARTS[part]), idx, T + 4)


@settings(max_examples=12, deadline=None)
@given(parts=choices(), prompt=st.integers(1, 2 * T), seed=st.integers(0, 2**32))
def test_parts_remember_together(parts, prompt, seed):
    check_modern(lively(**parts), torch.randint(V, (2, prompt), generator=seeded(seed)), T + 2)


ENDLESS = {"window": [3, 5], "bigram_embedding": "all", "value_residual": True, "u_net": True}


@pytest.mark.parametrize("rope_base", [None, 100.0])
@pytest.mark.parametrize("prompt", [1, T, 3 * T + 2])
def test_where_all_windows_end_generation_does_not(rope_base, prompt):
    """It is the same model, whatever it has been given before, read over all of the text."""
    model, seen = lively(**ENDLESS, rope_base=rope_base), []
    idx = torch.randint(V, (2, prompt), generator=seeded(1))
    with model.register_forward_hook(lambda module, args, logits: seen.append(args[0].shape[1])):
        ours = continuation(model, idx, 4 * T, generator=[seeded(s) for s in range(2)])
    pieces = [T] * (prompt // T) + [prompt % T] * (prompt % T > 0)
    assert seen == [*pieces, *[1] * (4 * T - 1)]  # each token is read once
    assert torch.equal(ours, recomputed(model, idx, 4 * T, [0, 1], sees=None))


def test_only_what_the_windows_reach_is_kept():
    model = lively(**ENDLESS)
    memory = Memory.of(model)
    for token in torch.randint(V, (500, 2, 1), generator=seeded(1)):
        with memory, torch.no_grad():
            model(token)
    held = [kept.shape[-2] for _, past in memory.pasts for kept in past.kept]
    assert len(held) == 2 * 3 + 1  # keys and values of three layers, and the tokens for pairs
    assert max(held) == 16


@pytest.mark.parametrize(
    ("parts", "endless"),
    [
        ({"window": 4}, True),
        ({"window": [4, 2]}, True),
        ({"window": [4, None]}, False),
        ({}, False),
        ({"window": 4, "learned_positions": True}, False),
    ],
)
def test_a_model_is_endless_if_no_layer_looks_back_without_end(parts, endless):
    assert lively(**parts).endless is endless


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    reach=st.one_of(st.none(), st.integers(0, 40)),
)
def test_a_past_gives_back_the_last_positions_in_their_order(pieces, reach):
    past, n_read = Past(), 0
    for n in pieces:
        new = torch.arange(n_read, n_read + n).float()[:, None].expand(2, n, 3)
        first = 0 if reach is None else max(0, n_read - reach)
        n_read += n
        (kept,) = past.extend(new, reach=reach)
        assert kept[0, :, 0].tolist() == list(range(first, n_read))
        assert past.length == n_read
