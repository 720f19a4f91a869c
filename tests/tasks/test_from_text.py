"""Questions that are made of a text."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

from lmlab.config import build
from lmlab.data.tokenizer import CharTokenizer
from lmlab.tasks.from_text import Name, NextLine, OfText, RealWord, WordOrder
from lmlab.tasks.likelihood import ask
from lmlab.tasks.scores import scores

KINDS = [RealWord, WordOrder, NextLine, Name]


@pytest.fixture(scope="module")
def val(tinyshakespeare_text) -> list[str]:
    return [tinyshakespeare_text[-111_540:]]


@pytest.fixture(scope="module")
def items(val):
    return {kind: kind().items(val) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_answer_is_what_the_text_says(kind, val, items):
    assert len(items[kind]) == (500 if kind is not Name else 323)
    for item in items[kind]:
        right, wrong = item.choices
        assert item.answer == 0
        assert item.context + right in val[0]
        assert right != wrong
        assert len(right) == len(wrong)
        assert right.strip() == right.lstrip()
        assert re.match(r"\s*", right)[0] == re.match(r"\s*", wrong)[0]
        assert len(item.context + right) <= 100 + len(right.lstrip())


def test_a_wrong_answer_is_of_the_kind_that_it_says(val, items):
    words = {word.lower() for word in re.findall(r"[A-Za-z]+", val[0])}
    for item in items[RealWord]:
        right, wrong = (choice.strip() for choice in item.choices)
        assert Counter(right.lower()) == Counter(wrong.lower())
        assert [c.isupper() for c in right] == [c.isupper() for c in wrong]
        assert wrong.lower() not in words
    assert len({item.choices[0].strip().lower() for item in items[RealWord]}) == 500
    for item in items[WordOrder]:
        right, wrong = (re.findall(r"[A-Za-z]+", choice) for choice in item.choices)
        assert Counter(right) == Counter(wrong)
        assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 2
    lines = val[0].splitlines()
    for item in items[NextLine]:
        assert all(any(li.startswith(c.strip()) for li in lines) for c in item.choices)
    for item in items[Name]:
        assert all(choice.strip().istitle() for choice in item.choices)
        assert all(choice.strip().lower() not in val[0].split() for choice in item.choices)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_makes_the_same_questions(kind, val, items):
    assert kind().items(val) == items[kind]
    assert kind(seed=2).items(val) != items[kind]
    assert kind(n_items=7).items(val) == items[kind][:7]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "\n", "a", "日本語のテキスト。" * 9, "I AM! I AM?\n" * 9])
def test_a_text_without_such_places_makes_none(kind, text):
    task: OfText = kind()
    assert all(item.choices[0] != item.choices[1] for item in task.items([text]))


@pytest.mark.parametrize("model", ["gpt", pytest.param("modern", marks=pytest.mark.slow), "bigram"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_model_is_at_chance(kind, model, items, val, composed):
    tokenizer = CharTokenizer.fit(val)
    torch.manual_seed(7)
    untrained = build.model(composed(f"model={model}")["model"], tokenizer.vocab_size, 32).eval()
    some = items[kind][:300]
    found = scores(ask(untrained, tokenizer, some))
    for score in ("accuracy", "accuracy_per_character"):
        assert found[score].low <= 0.5 <= found[score].high
    assert found["margin"].low <= 0 <= found["margin"].high
    assert found["bits_per_byte"].value == pytest.approx(np.log2(tokenizer.vocab_size), rel=0.15)
