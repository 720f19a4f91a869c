"""Each choice has the log-probability that the model gives its tokens one by one."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lmlab.config import build
from lmlab.data.tokenizer import CharTokenizer
from lmlab.models.contract import Hooks
from lmlab.tasks import likelihood
from lmlab.tasks.items import Item
from lmlab.tasks.likelihood import ask, windows_of

TEXT = "\n abcdefgh"
TOKENIZER = CharTokenizer.fit([TEXT])
V, BLOCK_SIZE = TOKENIZER.vocab_size, 12
ITEMS = [
    Item("", ("abc", "abcd"), 1),
    Item("", ("ab cd ef gh ab cd", "ab cd ef hg ab cd")),  # longer than block_size
    Item("abcdefgh abcdefgh abc", (" dea", " dab", " h")),  # its context is
    Item("abc abc ab", ("c", "d"), 1),
    Item("abc abc ab", ("c abca", "c abcb")),
    Item("abc abc ac", ("c ab", "d ab")),
    Item("abc abc", (" abc",)),
    Item("a", ("xyz", "abc")),  # of which some are unknown
]


NAMES = [
    *("bigram", "ngram", "bag_of_words", "head", "residual", "gpt", "modern"),
    "ensemble",
]


@pytest.fixture(params=NAMES)
def model(request, composed) -> nn.Module:
    """One of each kind, of random weights, or counts of a few words."""
    config = composed(f"model={request.param}")["model"]
    torch.manual_seed(1)
    model = build.model(config, V, BLOCK_SIZE).eval()
    hooks = Hooks.of(model)
    if (look := hooks.fit or hooks.prepare) is not None:
        look(torch.from_numpy(TOKENIZER.encode("abc abd abe fgh ab\n" * 20).copy()))
    for parameter in model.parameters():  # some begin with zeros
        nn.init.normal_(parameter, std=0.3)
    return model


def by_hand(model: nn.Module, ids: np.ndarray, begin: int) -> tuple[float, bool]:
    """Token by token, where all fits into one window that ends with the text."""
    start = max(0, len(ids) - 1 - BLOCK_SIZE)
    total, is_greedy = 0.0, True
    for i in range(begin, len(ids)):
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[start:i].astype(np.int64))[None])[0, -1]
        total += logits.double().log_softmax(-1)[int(ids[i])].item()
        is_greedy &= bool(logits.argmax() == int(ids[i]))
    return total, is_greedy


@pytest.mark.parametrize("prefix", [1, 1000], ids=["prefixes once", "all of each"])
def test_it_is_what_the_definition_says(monkeypatch, model, prefix):
    monkeypatch.setattr(likelihood, "SHORTEST_PREFIX", prefix)
    answers = ask(model, TOKENIZER, ITEMS)
    assert list(answers.is_asked) == [True] * 7 + [False]
    for row, item in enumerate(ITEMS[:7]):
        if row == 1:
            continue
        for column, choice in enumerate(item.choices):
            before = item.context or "\n"
            expected = by_hand(model, TOKENIZER.encode(before + choice), len(before))
            assert answers.log_probs[row, column] == pytest.approx(expected[0], rel=1e-5)
            assert answers.is_greedy[row, column] == expected[1]
            assert answers.characters[row, column] == len(choice)
        assert np.isnan(answers.log_probs[row, len(item.choices) :]).all()


@pytest.mark.parametrize("model", ["gpt", "bigram"], indirect=True)
def test_a_text_longer_than_block_size_is_read_in_windows(model):
    ids = TOKENIZER.encode("\n" + ITEMS[1].choices[0])  # 18 of them
    # The first window makes 12 predictions; the last, which ends with the text, the other 5.
    expected = by_hand(model, ids[:13], 1)[0] + by_hand(model, ids, 13)[0]
    answers = ask(model, TOKENIZER, [ITEMS[1]])
    assert answers.log_probs[0, 0] == pytest.approx(expected, rel=1e-5)


@given(
    n=st.integers(2, 60), begin=st.integers(1, 59), block_size=st.integers(1, 30), data=st.data()
)
def test_windows_predict_each_token_of_a_choice_once(n, begin, block_size, data):
    stride = data.draw(st.integers(1, block_size))
    begin = min(begin, n - 1)
    ids = np.arange(n)
    windows = [*windows_of(ids, begin, block_size, stride, (0, 0))]
    predicted = [i for w in windows for i in w.ids[len(w.ids) - w.counted :]]
    assert predicted == list(range(begin, n))
    assert all(2 <= len(w.ids) <= block_size + 1 and w.counted < len(w.ids) for w in windows)
    assert windows[-1].ids[-1] == n - 1
    starts = [w.ids[0] for w in windows]
    assert all(b - a <= stride for a, b in itertools.pairwise(starts))
    if n - begin <= block_size:  # as much context as there is room for
        assert len(windows) == 1
        assert starts == [max(0, n - 1 - block_size)]
