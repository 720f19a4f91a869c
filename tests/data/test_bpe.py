"""Byte pair encoding that is trained on the train split."""

import json
import os
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.data.bpe import LONGEST_WORD, BPETokenizer
from lmlab.data.corpus import Corpus, from_files
from lmlab.data.tokenizer import SINGLE_BYTES, CharTokenizer, Tokenizer
from lmlab.data.tokens import tokenize
from lmlab.errors import LabError

# Words of every sort of letter; \x1c is white space to Python and none to GPT-2's pattern.
TEXT = "The naïve king's 日本 🙂 crown;\x1c the\u3000the\xa0crown \t\r\n\n he'll 12 kings! " * 20
FRAGMENTS = [" ", "  ", "\n", "\t", "\x1c", "\x1f", "\x85", "\xa0", "\u3000", "the", " the", "king"]
FRAGMENTS += [
    "'s",
    "crown;",
    "日本",
    "🙂",
    "é",
    "e\u0301",
    "12",
    "!",
    "<|endoftext|>",
    "\ufeff",
    "\0",
]
texts = st.text() | st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return BPETokenizer.fit([TEXT], vocab_size=300)


def write(path: Path, text: str) -> Corpus:
    path.write_bytes(text.encode())
    return from_files(str(path))


def test_the_most_frequent_pair_is_joined_first() -> None:
    bpe = BPETokenizer.fit(["ab ab ab abc abc"], vocab_size=259)
    assert [bpe.token_bytes(i) for i in range(256)] == SINGLE_BYTES
    assert [bpe.token_bytes(i) for i in range(256, 259)] == [b"ab", b" ab", b" abc"]
    assert bpe.encode("abc ab abc").tolist() == [256, ord("c"), 257, 258]
    assert bpe.merges == [(ord("a"), ord("b")), (ord(" "), 256), (257, ord("c"))]


def test_256_ids_are_the_byte_tokenizer() -> None:
    assert BPETokenizer.fit([TEXT], vocab_size=256).encode(TEXT).tolist() == list(TEXT.encode())


@given(text=texts)
def test_any_text_comes_back(bpe: BPETokenizer, text: str) -> None:
    ids = bpe.encode(text)
    assert ids.dtype == bpe.dtype == np.uint16
    assert bpe.decode(ids) == text
    assert bpe.characters_per_token()[ids].sum() == len(text)


@given(ids=st.lists(st.integers(0, 299), max_size=40))
def test_any_ids_stand_for_their_bytes(bpe: BPETokenizer, ids: list[int]) -> None:
    expected = b"".join(bpe.token_bytes(i) for i in ids)
    assert bpe.decode(ids) == expected.decode(errors="replace")


@given(pieces=st.lists(texts, max_size=10))
def test_encoding_what_cut_yields_equals_encoding_the_whole(
    bpe: BPETokenizer, pieces: list[str]
) -> None:
    whole = "".join(pieces)
    ids = [id_ for piece in bpe.cut(pieces) for id_ in bpe.encode(piece).tolist()]
    assert ids == bpe.encode(whole).tolist()


@settings(max_examples=30)
@given(ends=st.sets(st.integers(0, len(TEXT)), max_size=10))
def test_merges_do_not_depend_on_the_pieces(bpe: BPETokenizer, ends: set[int]) -> None:
    bounds = [0, *sorted(ends), len(TEXT)]
    pieces = [TEXT[a:b] for a, b in pairwise(bounds)]
    assert BPETokenizer.fit(pieces, vocab_size=300).merges == bpe.merges


def test_merges_do_not_depend_on_the_number_of_threads(tinyshakespeare_text: str) -> None:
    program = (
        "import sys; from lmlab.data.bpe import BPETokenizer; text = sys.stdin.read();"
        "print(BPETokenizer.fit([text[i:i+999] for i in range(0, len(text), 999)], 600).merges)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=tinyshakespeare_text[:200_000],
            env={**os.environ, "RAYON_NUM_THREADS": n_threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for n_threads in ("1", "4")
    }
    assert len(printed) == 1
    assert len(json.loads(printed.pop().replace("(", "[").replace(")", "]"))) == 600 - 256


def test_it_comes_back_from_json(bpe: BPETokenizer) -> None:
    again = Tokenizer.from_json(json.loads(json.dumps(bpe.stored())))
    assert isinstance(again, BPETokenizer)
    assert again.stored() == bpe.stored()
    assert again.encode(TEXT).tolist() == bpe.encode(TEXT).tolist()


@pytest.mark.parametrize(
    "merges",
    [None, 5, [[1]], [[1, 256]], [[-1, 1]], ["ab"], [[1, 2, 3]], [[float("inf"), 1]], [[1.0, 2]]],
)
def test_damaged_json_is_refused(bpe: BPETokenizer, merges: object) -> None:
    with pytest.raises(LabError, match="bpe tokenizer is damaged"):
        Tokenizer.from_json({**bpe.stored(), "merges": merges})


@pytest.mark.parametrize(
    ("vocab_size", "message"),
    [
        (255, "tokenizer.vocab_size=255: at least 256"),
        (-1, "tokenizer.vocab_size=-1: at least 256"),
        (5000, r"tokenizer.vocab_size=5000 is more than .* at most 257"),
    ],
)
def test_a_size_that_cannot_be_had_is_refused(vocab_size: int, message: str) -> None:
    with pytest.raises(LabError, match=message):
        BPETokenizer.fit(["ab ab x"], vocab_size=vocab_size)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(LabError, match=r"tokenizer=bpe needs the extra `bpe`: pip install"):
        BPETokenizer.fit(["ab"])


def test_nothing_is_learnt_from_val_and_no_token_crosses_its_begin(tmp_path: Path) -> None:
    text = "The king " * 100 + "queen" * 20  # 1000 characters; a tenth is val
    found = tokenize(
        write(tmp_path / "text", text), BPETokenizer, tmp_path, arguments={"vocab_size": 263}
    )
    assert found.tokenizer.stored() == BPETokenizer.fit([text[:900]], 263).stored()
    assert found.tokenizer.decode(found.train.whole()) == text[:900]
    assert found.tokenizer.decode(found.val.whole()) == text[900:]
    assert found.val.whole().numpy().max() < 256
    again = tokenize(
        write(tmp_path / "other", text + "!"), BPETokenizer, tmp_path, arguments={"vocab_size": 263}
    )
    assert again.tokenizer.stored() == found.tokenizer.stored()


@pytest.mark.parametrize("val_fraction", [0.1, 0.37])
def test_val_is_the_text_that_a_char_tokenizer_has(tmp_path: Path, val_fraction: float) -> None:
    corpus = write(tmp_path / "text", TEXT)
    arguments = {"vocab_size": 280}
    char = tokenize(corpus, CharTokenizer, tmp_path)
    bpe = tokenize(corpus, BPETokenizer, tmp_path, arguments=arguments, val_fraction=val_fraction)
    n_train = int((1 - val_fraction) * len(char.ids))
    val = char.ids[n_train:].whole()
    assert bpe.tokenizer.decode(bpe.val.whole()) == char.tokenizer.decode(val)
    from_cache = tokenize(
        corpus, BPETokenizer, tmp_path, arguments=arguments, val_fraction=val_fraction
    )
    assert from_cache.n_train == bpe.n_train


def test_progress_is_told_about_every_byte_of_every_pass(tmp_path: Path) -> None:
    text = write(tmp_path / "text", TEXT)
    told: list[int] = []
    tokenize(text, BPETokenizer, tmp_path, told.append, {"vocab_size": 280})
    assert sum(told) == text.n_bytes * BPETokenizer.passes
    told.clear()
    tokenize(text, BPETokenizer, tmp_path, told.append, {"vocab_size": 280})
    assert told == []


def dna(n: int) -> str:
    return "".join(random.Random(1).choices("ACGT", k=n))


def test_a_word_as_long_as_the_text_is_learnt_in_time_and_comes_back() -> None:
    text = dna(300_000)
    began = time.process_time()
    bpe = BPETokenizer.fit([text], vocab_size=512)
    ids = bpe.encode(text)
    assert time.process_time() - began < 20  # uncut it takes a minute, and four times it for twice
    assert bpe.decode(ids) == text
    assert len(ids) < len(text) / 3


def test_only_words_longer_than_the_longest_are_cut(bpe: BPETokenizer) -> None:
    uncut = BPETokenizer(bpe.merges, longest_word=None)
    for word in ["king" * (LONGEST_WORD // 4), " " + "naïve日本" * 80, " " * 900, TEXT]:
        assert bpe.encode(word).tolist() == uncut.encode(word).tolist()
    long = "the" * LONGEST_WORD
    assert LONGEST_WORD % 3  # so that the cut takes one "the" apart
    assert bpe.encode(long).tolist() != uncut.encode(long).tolist()
    assert bpe.decode(bpe.encode(long)) == long
    parts = [long[i : i + LONGEST_WORD] for i in range(0, len(long), LONGEST_WORD)]
    assert bpe.encode(long).tolist() == [id_ for p in parts for id_ in uncut.encode(p).tolist()]


@pytest.mark.slow
def test_a_length_of_words_travels_with_a_tokenizer_where_it_is_not_todays(
    bpe: BPETokenizer,
) -> None:
    assert "longest_word" not in bpe.stored()  # checkpoints of before have none
    for longest in (None, 2):
        other = BPETokenizer(bpe.merges, longest)
        again = Tokenizer.from_json(json.loads(json.dumps(other.stored())))
        assert again.encode(TEXT).tolist() == other.encode(TEXT).tolist()
    for longest in (0, -1, 10**12, "x", 1.5, [2], float("nan")):
        with pytest.raises(LabError, match="bpe tokenizer is damaged"):
            Tokenizer.from_json({**bpe.stored(), "longest_word": longest})
