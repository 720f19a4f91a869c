"""The count model against a slow re-implementation, against theory, and on the real corpus."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.definition import slow_probs
from torch.nn import functional as F

from lmlab.errors import LabError
from lmlab.models.ngram import NGram


@st.composite
def cases(draw):
    vocab_size = draw(st.integers(3, 5))
    token = st.integers(0, vocab_size - 1)
    corpus = draw(st.lists(token, max_size=60))
    window = draw(st.lists(token, min_size=1, max_size=10))
    return vocab_size, draw(st.integers(1, 6)), corpus, window


def fitted(vocab_size: int, order: int, corpus, block_size: int = 16) -> NGram:
    model = NGram(vocab_size, block_size, order)
    model.fit(np.asarray(corpus, dtype=np.int64))
    return model


@settings(max_examples=60, deadline=None)
@given(cases())
def test_equals_the_definition_at_every_position(case):
    vocab_size, order, corpus, window = case
    probs = fitted(vocab_size, order, corpus)(torch.tensor([window])).exp()[0]
    for t in range(len(window)):
        context = tuple(window[max(0, t + 1 - (order - 1)) : t + 1])
        expected = torch.tensor(slow_probs(corpus, context, vocab_size))
        torch.testing.assert_close(probs[t], expected, rtol=1e-5, atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_rows_are_positive_distributions(case):
    vocab_size, order, corpus, window = case
    logits = fitted(vocab_size, order, corpus)(torch.tensor([window]))
    assert logits.shape == (1, len(window), vocab_size)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(1, len(window)))
    torch.testing.assert_close(logits.softmax(-1), logits.exp())


@pytest.mark.parametrize("order", range(1, 7))
def test_causal_and_no_longer_than_its_context(order):
    corpus = torch.randint(5, (2000,), generator=torch.Generator().manual_seed(0))
    model = fitted(5, order, corpus)
    window = corpus[100:116].view(1, -1)
    before = model(window)
    for t in range(window.shape[1]):
        changed = window.clone()
        changed[0, t] = (changed[0, t] + 1) % 5
        same = (model(changed) == before).all(-1)[0]
        assert same[:t].all()
        assert same[t + order - 1 :].all()


def test_rows_of_a_batch_do_not_see_each_other():
    corpus = torch.randint(5, (2000,), generator=torch.Generator().manual_seed(0))
    model = fitted(5, 4, corpus)
    batch = corpus[:48].view(6, 8)
    torch.testing.assert_close(model(batch), torch.cat([model(row[None]) for row in batch]))


def test_a_bigram_table_reaches_the_conditional_entropy():
    # No bigram model can have a lower loss on its own corpus than H(next | token).
    rng = np.random.default_rng(0)
    transitions = rng.dirichlet(np.full(8, 0.5), size=8)
    corpus = [0]
    for _ in range(20_000):
        corpus.append(int(rng.choice(8, p=transitions[corpus[-1]])))
    pairs = np.zeros((8, 8))
    np.add.at(pairs, (corpus[:-1], corpus[1:]), 1)
    given_token = pairs / pairs.sum(1, keepdims=True)
    entropy = -(pairs[pairs > 0] * np.log(given_token[pairs > 0])).sum() / pairs.sum()

    idx = torch.tensor(corpus)
    loss = F.cross_entropy(fitted(8, 2, corpus)(idx[None, :-1])[0].double(), idx[1:]).item()
    assert entropy - 1e-6 <= loss < entropy + 0.005


def test_unfitted_is_uniform():
    logits = NGram(65, 8)(torch.zeros(2, 8, dtype=torch.int64))
    torch.testing.assert_close(logits, torch.full((2, 8, 65), -math.log(65)))


def test_nothing_is_trained():
    assert list(NGram(65, 8).parameters()) == []


def test_fitting_again_forgets():
    once, twice = fitted(4, 3, [0, 1, 2, 3] * 5), fitted(4, 3, [3, 3, 1])
    twice.fit(np.array([0, 1, 2, 3] * 5))
    idx = torch.tensor([[0, 1, 3, 3, 1]])
    assert torch.equal(once(idx), twice(idx))


def test_state_dict_round_trip_into_a_fresh_model():
    corpus = torch.randint(9, (3000,), generator=torch.Generator().manual_seed(0))
    model, fresh = fitted(9, 5, corpus), NGram(9, 16, 5)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    idx = corpus[:160].view(10, 16)
    assert torch.equal(fresh(idx), model(idx))


def test_tables_of_another_vocabulary_or_order_are_refused():
    state = fitted(9, 3, [0, 1, 2]).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        NGram(10, 16, 3).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"tables\.3"):
        NGram(9, 16, 4).load_state_dict(state)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int32])
def test_any_integer_type_and_memory_maps(dtype, tmp_path):
    corpus = np.random.default_rng(0).integers(0, 200, 500)
    mapped = np.memmap(tmp_path / "tokens.bin", dtype=dtype, mode="w+", shape=corpus.shape)
    mapped[:] = corpus
    idx = torch.from_numpy(corpus[:40]).view(5, 8)
    expected = fitted(200, 4, corpus)(idx)
    for tokens in (mapped, torch.from_numpy(np.array(mapped))):
        model = NGram(200, 16, 4)
        model.fit(tokens)
        assert torch.equal(model(idx), expected)


def test_gpt2_vocabulary_at_the_highest_order():
    # 50257 ** 6 is far beyond an int64: the keys must not wrap around.
    corpus = np.random.default_rng(0).integers(50_000, 50_257, 400).astype(np.uint16)
    model = NGram(50_257, 16, 6)
    model.fit(corpus)
    window = corpus[100:108].astype(np.int64)
    probs = model(torch.from_numpy(window)[None]).exp()[0]
    assert (probs > 0).all()
    torch.testing.assert_close(probs.sum(-1), torch.ones(8))
    expected = slow_probs(corpus.tolist(), tuple(window[-5:].tolist()), 50_257)
    torch.testing.assert_close(probs[-1], torch.tensor(expected), rtol=1e-4, atol=0)


def test_chunks_do_not_show(monkeypatch):
    corpus = np.random.default_rng(0).integers(0, 5, 1000)
    whole = fitted(5, 5, corpus)
    monkeypatch.setattr("lmlab.models.ngram.CHUNK", 7)
    for ours, theirs in zip(whole.buffers(), fitted(5, 5, corpus).buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_context_stays_within_block_size():
    corpus = np.random.default_rng(0).integers(0, 4, 300)
    short, trigram = fitted(4, 6, corpus, block_size=2), fitted(4, 3, corpus)
    assert short.order == 3
    idx = torch.from_numpy(corpus[:20])[None]
    assert torch.equal(short(idx), trigram(idx))


@pytest.mark.parametrize("order", [0, 9, -1, 2.5])
def test_bad_order(order):
    with pytest.raises(LabError, match=rf"model\.order={order}\b.*from 1 .*to 8"):
        NGram(65, 8, order)


def test_tokens_outside_the_vocabulary():
    with pytest.raises(LabError, match=r"model\.vocab_size=4\b.*from 0 to 4: give at least 5"):
        NGram(4, 8).fit(np.array([0, 4], dtype=np.uint8))
    with pytest.raises(LabError, match=r"from -1 to 2"):
        NGram(4, 8).fit(np.array([2, -1]))


# Order -> nats per character: the whole validation split as one window, so with full context;
# its first character is not scored.
TINYSHAKESPEARE = {1: 3.347, 2: 2.483, 3: 2.036, 4: 1.717, 5: 1.568, 6: 1.557}


def test_tinyshakespeare(tinyshakespeare_text):
    ids = {char: i for i, char in enumerate(sorted(set(tinyshakespeare_text)))}
    tokens = torch.tensor([ids[char] for char in tinyshakespeare_text])
    split = int(0.9 * len(tokens))
    train, val = tokens[:split], tokens[split:]
    losses = {}
    for order in TINYSHAKESPEARE:
        model = NGram(len(ids), 256, order)
        model.fit(train)
        losses[order] = F.cross_entropy(model(val[None, :-1])[0], val[1:]).item()
    assert losses == pytest.approx(TINYSHAKESPEARE, abs=6e-4)
