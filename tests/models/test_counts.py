"""Counts to start from: each part of the text is left out where it is to be learned."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.definition import slow_probs
from modern_parts import T, V, lively, modern, random_ids

from lmlab.models.inside.counts import CrossFitted, hashed
from lmlab.models.ngram import NGram


@st.composite
def cases(draw: Any) -> tuple[int, int, int, list[int], int]:
    vocab_size = draw(st.integers(2, 4))
    corpus = draw(st.lists(st.integers(0, vocab_size - 1), min_size=12, max_size=50))
    start = draw(st.integers(0, len(corpus) - 9))
    return vocab_size, draw(st.integers(1, 5)), draw(st.integers(1, 4)), corpus, start


def part_of(place: int, n_folds: int, n: int) -> range:
    inside = [i for i in range(n) if i * n_folds // n == place * n_folds // n]
    return range(inside[0], inside[-1] + 1)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_in_training_a_position_sees_the_counts_of_all_other_parts(case):
    vocab_size, order, n_folds, corpus, start = case
    model = CrossFitted(vocab_size, 8, order, n_folds)
    model.fit(np.asarray(corpus))
    window = corpus[start : start + 8]
    (found,) = model.find(torch.tensor([window])).tolist()
    assert corpus[found : found + 8] == window
    probs = model.train()(torch.tensor([window])).exp()[0]
    for t in range(7):  # the token after the last is of the text, too, but perhaps after another
        context = tuple(window[max(0, t + 2 - order) : t + 1])
        part = part_of(found + t + 1, n_folds, len(corpus))
        expected = torch.tensor(slow_probs(corpus, context, vocab_size, part))
        torch.testing.assert_close(probs[t], expected, rtol=1e-5, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_in_evaluation_it_is_the_ngram_of_the_whole_text(case):
    vocab_size, order, n_folds, corpus, start = case
    model, plain = CrossFitted(vocab_size, 8, order, n_folds), NGram(vocab_size, 8, order)
    for one in (model, plain):
        one.fit(torch.tensor(corpus))
    idx = torch.tensor([corpus[start : start + 8]])
    assert torch.equal(model.eval()(idx), plain(idx))
    assert model.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_window_of_another_text_is_given_all_counts():
    model = CrossFitted(4, 8, 3, 5)
    model.fit(torch.tensor([0, 1, 2] * 40))
    both = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1], [3, 3, 1, 0, 2, 2, 1, 3]])
    assert (model.find(both) >= 0).tolist() == [True, False]
    seen = model.train()(both)
    assert torch.equal(seen[1], model.eval()(both)[1])


def test_hashes_tell_windows_apart():
    idx = random_ids(5000, seed=3)
    for n in (1, 2, 8, 64):
        windows = {tuple(window) for window in idx.unfold(0, n, 1).tolist()}
        assert len(set(hashed(idx, n).tolist())) == len(windows)
        assert hashed(idx[7 : 7 + n], n) == hashed(idx, n)[7]


def test_it_begins_where_counting_ends():
    model = modern(counts_order=3, projection_scale=0.0)
    torch.nn.init.zeros_(model.lm_head.weight)
    idx = random_ids(2, T)
    for mode in (True, False):
        model.train(mode)
        assert torch.equal(model(idx).log_softmax(-1), model.counts.ngram(idx).log_softmax(-1))


def test_a_checkpoint_holds_the_counts_of_the_whole_text_alone():
    model = lively(counts_order=3)
    other = lively(counts_order=3)
    other.prepare(random_ids(50, seed=9))
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    idx = random_ids(3, T)
    assert torch.equal(model(idx), other.eval()(idx))
    assert not any("without" in name or "hashes" in name for name in model.state_dict())


@pytest.mark.parametrize("length", [1, 5, 7])
def test_windows_shorter_than_what_is_remembered_are_given_all_counts(length):
    model = CrossFitted(V, 8, 3)
    model.fit(random_ids(100))
    idx = random_ids(100)[None, 20 : 20 + length]
    assert torch.equal(model.train()(idx), model.eval()(idx))
