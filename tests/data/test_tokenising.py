"""Tokenised on all cores, and gone on with after a kill: always the same ids."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import processes
from hypothesis import given
from hypothesis import strategies as st

from lmlab.data import corpus as corpora
from lmlab.data.bpe import BPETokenizer
from lmlab.data.corpus import Corpus, from_files
from lmlab.data.sources import documents
from lmlab.data.tokenising import encoding, unfinished
from lmlab.data.tokenising.encoding import on_cores
from lmlab.data.tokenising.pieces import cut_between_words, parts_between_words
from lmlab.data.tokenising.unfinished import one_at_a_time
from lmlab.data.tokenizer import CharTokenizer, GPT2Tokenizer, Tokenizer
from lmlab.data.tokens import TokenizedCorpus, tokenize
from lmlab.errors import LabError

TEXT = "Now is the winter of our discontent,\n  naïve 日本 🙂 'tis.\n\n" * 400
KINDS = {CharTokenizer: {}, GPT2Tokenizer: {}, BPETokenizer: {"vocab_size": 280}}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "PIECE_BYTES", 512)
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 512)


@pytest.fixture(params=["a text", "documents"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Corpus:
    if request.param == "a text":
        (tmp_path / "text.txt").write_text(TEXT)
        return from_files(str(tmp_path / "text.txt"))
    lines = [json.dumps({"text": f"{n} {TEXT[: 50 + n % 40]}"}) for n in range(400)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    return from_files(str(tmp_path / "text.jsonl"))


def ids_of(text: TokenizedCorpus) -> tuple[Any, ...]:
    return text.ids.whole().tolist(), text.n_train, text.sha256, text.tokenizer.stored()


def killed(corpus: Corpus, kind: type[Tokenizer], cache: Path, arguments: dict[str, Any]) -> None:
    """Tokenise, and be killed when most of the last pass is read."""
    corpora.PIECE_BYTES = documents.PIECE_CHARACTERS = 512
    unfinished.KEPT_EVERY, told = 0.0, 0

    def kill(n_bytes: int) -> None:
        nonlocal told
        told += n_bytes
        if told > corpus.n_bytes * (kind.passes - 0.3):
            os.kill(os.getpid(), signal.SIGKILL)

    tokenize(corpus, kind, cache, kill, arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_is_gone_on_with(
    kind: type[Tokenizer], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = KINDS[kind]
    whole = tokenize(corpus, kind, tmp_path / "whole", arguments=arguments)
    cache = tmp_path / "cache"
    # (No fork of this process: it would have none of the threads of `tokenizers`.)
    child = processes.Process(target=killed, args=(corpus, kind, cache, arguments))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    (part,) = cache.rglob(".*.part")
    done = part.stat().st_size
    assert 0.3 * whole.ids.nbytes < done < whole.ids.nbytes
    encoded: list[str] = []
    for name in ("encode", "encode_documents"):
        encode = getattr(kind, name)

        def counting(self: Any, text: str, encode: Callable[..., Any] = encode) -> np.ndarray:
            encoded.append(text)
            return encode(self, text)

        monkeypatch.setattr(kind, name, counting)
    progress: list[int] = []
    again = tokenize(corpus, kind, cache, progress.append, arguments)
    assert ids_of(again) == ids_of(whole)
    assert 0 < len("".join(encoded)) < 0.7 * len(TEXT) * (2 if corpus.documents else 1)
    assert sum(progress) == corpus.n_bytes * kind.passes
    left = sorted(path.suffix for path in cache.rglob("*") if path.is_file())
    assert left == [".bin", ".json"]


def test_what_was_kept_and_is_damaged_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    text, cache = from_files(str(tmp_path / "text.txt")), tmp_path / "cache"
    whole = tokenize(text, GPT2Tokenizer, tmp_path / "whole")
    monkeypatch.setattr(unfinished, "KEPT_EVERY", 0.0)

    def interrupt(n_bytes: int) -> None:
        if list(cache.rglob(".*.part.json")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(text, GPT2Tokenizer, cache, interrupt)
    (part,) = cache.rglob(".*.part")
    raw = bytearray(part.read_bytes())
    raw[3] ^= 1
    part.write_bytes(raw)
    assert ids_of(tokenize(text, GPT2Tokenizer, cache)) == ids_of(whole)


def test_a_bad_text_leaves_nothing_behind_however_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "KEPT_EVERY", 0.0)
    (tmp_path / "text.txt").write_bytes(TEXT.encode() + b"\xff")
    with pytest.raises(LabError, match="not UTF-8"):
        tokenize(from_files(str(tmp_path / "text.txt")), GPT2Tokenizer, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_the_same_however_many_cores_there_are(
    kind: type[Tokenizer], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for n in (1, 2, 5):
        monkeypatch.setattr(encoding, "n_cores", lambda n=n: n)
        made.append(ids_of(tokenize(corpus, kind, tmp_path / str(n), arguments=KINDS[kind])))
    assert made[0] == made[1] == made[2]


def test_pieces_come_in_their_order_and_few_are_read_ahead() -> None:
    read, done = [], 0

    def pieces() -> Iterator[str]:
        for n in range(100):
            read.append(n)
            yield str(n)

    def encode(piece: str) -> np.ndarray:
        time.sleep(0.002 if int(piece) % 7 == 0 else 0)
        return np.array([int(piece)])

    for ids in on_cores(encode, pieces(), 4):
        assert ids.tolist() == [done]
        assert len(read) <= done + 10
        done += 1
    assert done == 100


def test_the_first_error_in_the_text_is_the_one_that_is_told() -> None:
    def encode(piece: str) -> np.ndarray:
        time.sleep(0.01 if piece == "3" else 0)
        if piece in "35":
            raise LabError(piece)
        return np.array([int(piece)])

    with pytest.raises(LabError, match="3"):
        list(on_cores(encode, iter("123456789"), 4))


@given(st.text(st.sampled_from("ab \n\x1c\u2003é"), max_size=60), st.integers(1, 9))
def test_parts_are_cut_where_a_piece_may_be(text: str, size: int) -> None:
    parts = [*parts_between_words(text, size)]
    assert "".join(parts) == text
    for before, after in pairwise(parts):
        space = after[: after.index(" ") + 1]
        assert [*cut_between_words([before + space])] == [before, space]


def test_a_large_text_is_learnt_from_in_pieces_from_all_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin, end = "alpha beta " * 900, "gamma delta " * 900
    (tmp_path / "text.txt").write_text(begin + end + "." * 2300)
    text = from_files(str(tmp_path / "text.txt"))
    learnt: list[str] = []
    fit = BPETokenizer.fit.__func__

    def watched(cls: Any, pieces: Iterator[str], vocab_size: int) -> BPETokenizer:
        learnt.extend(pieces)
        return fit(cls, learnt, vocab_size)

    monkeypatch.setattr(BPETokenizer, "fit", classmethod(watched))
    monkeypatch.setattr(BPETokenizer, "learns_from", 5_000)
    made = tokenize(text, BPETokenizer, tmp_path / "cache", arguments={"vocab_size": 262})
    assert 4_000 <= len("".join(learnt)) <= 5_000
    assert "alpha" in learnt[0]
    assert "delta" in learnt[-1]
    assert made.tokenizer.decode(made.ids.whole()) == begin + end + "." * 2300
    assert "tokenizer=bpe learns from 0 of the train split's 0 million" in capsys.readouterr().out


def making(path: Path, ready: Path) -> None:
    with one_at_a_time(path):
        ready.touch()
        time.sleep(0.3)
        path.write_bytes(b"made")


def test_two_processes_do_it_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, ready = tmp_path / "ids.bin", tmp_path / "ready"
    child = processes.Process(target=making, args=(path, ready))
    child.start()
    while not ready.exists():
        time.sleep(0.01)
    with one_at_a_time(path):
        assert path.read_bytes() == b"made"
    child.join()
    assert "another process is making ids.bin" in capfd.readouterr().out
