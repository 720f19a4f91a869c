"""Tasks that need no file: questions about the val split of whatever text there is.

The same val and seed make the same questions. Both choices have the same characters, or as many of
them and the same right to be there, so a model that knows nothing, or nothing of what came before,
is right half of the time.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from lmlab.bounds import Count, Seed
from lmlab.tasks.items import Item, Task

WORD = re.compile(r"[^\W\d_]+")
PARAGRAPH = re.compile(r"(?:.+\n?)+")
SENTENCE = re.compile(r"[^\s.!?:][^.!?:]*[.!?]")  # of a paragraph; what a speaker is called is none
FEWEST_LETTERS = 4  # of a word whose letters are shuffled
FEWEST_WORDS = 5  # of a sentence
SHORTEST_LINE, LONGEST_LINE = 10, 60  # characters


class Question(NamedTuple):
    """What stands at a place of a text, and what might stand there."""

    text: str
    begin: int
    right: str
    wrong: str


class OfText(Task):
    """Up to `n_items` of a kind of question, drawn from all that a text has."""

    def __init__(self, n_items: Count = 500, context: Count = 100, seed: Seed = 1337):
        """`context` is how many characters before each place are given."""
        self.n_items, self.context, self.seed = n_items, context, seed

    def items(self, val: Sequence[str]) -> list[Item]:
        draw = np.random.default_rng(self.seed)
        items = []
        for text, begin, right, wrong in islice(self.questions(val, draw), self.n_items):
            before = text[max(0, begin - self.context) : begin]
            # White space belongs to the choice: a token begins with it, and ends before it.
            stem = before.rstrip()
            space = before[len(stem) :]
            items.append(Item(stem, (space + right, space + wrong)))
        return items

    @abstractmethod
    def questions(self, val: Sequence[str], draw: np.random.Generator) -> Iterator[Question]:
        """Every question that there is, in an order that is drawn."""


class RealWord(OfText):
    """A word of the text, or its letters shuffled? Each word is asked once."""

    def questions(self, val: Sequence[str], draw: np.random.Generator) -> Iterator[Question]:
        known = {match[0].lower() for text in val for match in WORD.finditer(text)}
        asked = set()
        for text, match in _drawn(WORD, val, draw):
            word, letters = match[0], match[0].lower()
            if len(letters) < FEWEST_LETTERS or len(letters) != len(word) or letters in asked:
                continue
            asked.add(letters)
            shuffled = "".join(draw.permutation(list(letters)))
            if shuffled not in known:
                pairs = zip(shuffled, word, strict=True)
                same_case = "".join(s.upper() if w.isupper() else s for s, w in pairs)
                if len(same_case) == len(word):
                    yield Question(text, match.start(), word, same_case)


class WordOrder(OfText):
    """A sentence of the text, or two of its words swapped?"""

    def questions(self, val: Sequence[str], draw: np.random.Generator) -> Iterator[Question]:
        paragraphs = [match[0] for text in val for match in PARAGRAPH.finditer(text)]
        for text, match in _drawn(SENTENCE, paragraphs, draw):
            sentence = match[0]
            words = [*WORD.finditer(sentence)]
            # A capital letter would tell where its word belongs.
            small = [word for word in words if word[0] == word[0].lower()]
            if len(words) < FEWEST_WORDS or len(small) < 2:
                continue
            i, j = sorted(draw.choice(len(small), 2, replace=False))
            a, b = small[i], small[j]
            if a[0] != b[0]:
                between = sentence[a.end() : b.start()]
                swapped = sentence[: a.start()] + b[0] + between + a[0] + sentence[b.end() :]
                yield Question(text, match.start(), sentence, swapped)


class NextLine(OfText):
    """The line that comes next, or another of the same length? Of a long one, its beginning."""

    def questions(self, val: Sequence[str], draw: np.random.Generator) -> Iterator[Question]:
        line = re.compile(rf"(?<=\n)[^\s].{{{SHORTEST_LINE - 1},{LONGEST_LINE - 1}}}")
        return _or_another(line, val, draw, lambda text: True)


class Name(OfText):
    """The name that the text has here, or another of its names, as long as this one?

    A name is a word that begins with a capital letter, within a sentence too, and never with a
    small one.
    """

    def questions(self, val: Sequence[str], draw: np.random.Generator) -> Iterator[Question]:
        small = {m[0] for text in val for m in WORD.finditer(text) if m[0] == m[0].lower()}
        name = re.compile(r"(?<=[^\W\d_A-Z] |[,;] )[^\W\d_]{3,}")
        return _or_another(name, val, draw, lambda word: _is_name(word, small))


def _is_name(word: str, small: set[str]) -> bool:
    return word[0].isupper() and word[1:] == word[1:].lower() and word.lower() not in small


def _or_another(
    pattern: re.Pattern[str],
    texts: Sequence[str],
    draw: np.random.Generator,
    is_meant: Callable[[str], bool],
) -> Iterator[Question]:
    """What a pattern matches, if it is meant, or another such text of the same length?"""
    by_length = defaultdict(list)
    for text in texts:
        for match in pattern.finditer(text):
            if is_meant(match[0]):
                by_length[len(match[0])].append(match[0])
    for text, match in _drawn(pattern, texts, draw):
        if is_meant(match[0]):
            others = by_length[len(match[0])]
            other = others[draw.integers(len(others))]
            if other != match[0]:
                yield Question(text, match.start(), match[0], other)


def _drawn(
    pattern: re.Pattern[str], texts: Sequence[str], draw: np.random.Generator
) -> Iterator[tuple[str, re.Match[str]]]:
    """Every place where a pattern matches, in an order that is drawn."""
    places = [(text, match) for text in texts for match in pattern.finditer(text)]
    for i in draw.permutation(len(places)):
        yield places[i]
