"""A corpus as ids on disk."""

import hashlib
import json
import os
import tempfile
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lmlab.data import corpus, tokens
from lmlab.data.corpus import Corpus, from_files
from lmlab.data.tokenizer import ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer
from lmlab.data.tokens import tokenize
from lmlab.errors import LabError

TEXT = "Now is the winter of our discontent,\n  naïve 日本 🙂 'tis.\n\n" * 20
KINDS = [CharTokenizer, ByteTokenizer, GPT2Tokenizer]


def write(path: Path, text: str) -> Corpus:
    path.write_bytes(text.encode())
    return from_files(str(path))


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_whole_text(kind: type[Tokenizer], tmp_path: Path) -> None:
    found = tokenize(write(tmp_path / "text", TEXT), kind, tmp_path / "cache")
    expected = kind.fit([TEXT]).encode(TEXT)
    assert np.array_equal(found.ids.whole(), expected)
    assert found.ids.whole().numpy().dtype == expected.dtype
    assert found.tokenizer.decode(found.ids.whole()) == TEXT
    assert found.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.mark.parametrize("n_tokens", [100, 101, 109, 1034])
def test_nine_tenths_are_for_training(n_tokens: int, tmp_path: Path) -> None:
    found = tokenize(write(tmp_path / "text", TEXT[:n_tokens]), CharTokenizer, tmp_path / "cache")
    assert len(found.train) == int(0.9 * n_tokens)
    assert torch.equal(torch.cat([found.train.whole(), found.val.whole()]), found.ids.whole())


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_may_end_within_a_character(
    kind: type[Tokenizer], piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", piece_bytes)
    found = tokenize(write(tmp_path / "text", TEXT), kind, tmp_path / "cache")
    assert np.array_equal(found.ids.whole(), kind.fit([TEXT]).encode(TEXT))


@pytest.mark.parametrize("kind", KINDS)
def test_progress_is_told_about_every_byte_of_every_pass(
    kind: type[Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", 100)
    text = write(tmp_path / "text", TEXT)
    told: list[int] = []
    tokenize(text, kind, tmp_path / "cache", told.append)
    assert sum(told) == text.n_bytes * kind.passes
    assert max(told) == 100


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_time_the_text_is_not_read(kind: type[Tokenizer], tmp_path: Path) -> None:
    text = write(tmp_path / "text", TEXT)
    first = tokenize(text, kind, tmp_path / "cache")
    told: list[int] = []
    second = tokenize(text, kind, tmp_path / "cache", told.append)
    assert told == []
    assert torch.equal(second.ids.whole(), first.ids.whole())
    assert second.tokenizer.to_json() == first.tokenizer.to_json()
    assert second.sha256 == first.sha256


def test_torch_takes_the_ids_without_a_warning(tmp_path: Path) -> None:
    text = write(tmp_path / "text", TEXT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenize(text, ByteTokenizer, tmp_path / "cache").ids.dtype == torch.uint8


def test_the_cache_is_the_users_unless_another_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "users"))
    tokenize(write(tmp_path / "text", TEXT), CharTokenizer)
    assert len(files_in(tmp_path / "users")) == 2


def test_texts_and_tokenizers_do_not_share_ids(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name, text in (("one", "abc"), ("two", "abd"), ("both", "abcabd")):
        for kind in KINDS:
            found = tokenize(write(tmp_path / name, text), kind, cache)
            assert type(found.tokenizer) is kind
            assert found.tokenizer.decode(found.ids.whole()) == text
    joined = tokenize(from_files(str(tmp_path / "[ot][nw][eo]")), CharTokenizer, cache)
    assert joined.tokenizer.decode(joined.ids.whole()) == "abcabd"


def test_an_edited_file_is_tokenised_anew(tmp_path: Path) -> None:
    path, cache = tmp_path / "text", tmp_path / "cache"
    tokenize(write(path, "to be, or not to be"), CharTokenizer, cache)
    before = path.stat().st_mtime_ns
    edited = write(path, "to be, or not to do")
    os.utime(path, ns=(before + 1, before + 1))
    found = tokenize(edited, CharTokenizer, cache)
    assert found.tokenizer.decode(found.ids.whole()) == "to be, or not to do"


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def alter(ids: Path, token: int) -> None:
    """Put an id into the middle, and leave length and time of the file as they were."""
    before = ids.stat()
    with ids.open("r+b") as file:
        file.seek(200)
        file.write(np.uint16(token).tobytes())
    os.utime(ids, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "ids cut in half": lambda ids, about: os.truncate(ids, ids.stat().st_size // 2),
    "ids cut by a byte": lambda ids, about: os.truncate(ids, ids.stat().st_size - 1),
    "ids empty": lambda ids, about: os.truncate(ids, 0),
    "ids too long": lambda ids, about: ids.write_bytes(ids.read_bytes() + b"\0\0"),
    "ids gone": lambda ids, about: ids.unlink(),
    "description gone": lambda ids, about: about.unlink(),
    "description empty": lambda ids, about: os.truncate(about, 0),
    "description cut": lambda ids, about: os.truncate(about, about.stat().st_size - 9),
    "description not UTF-8": lambda ids, about: about.write_bytes(b'{"n_tokens": "\xff"}'),
    "description of another shape": lambda ids, about: about.write_text("[1, 2]"),
    "another length": lambda ids, about: rewrite(about, n_tokens=7),
    "no tokenizer": lambda ids, about: rewrite(about, tokenizer=None),
    "another kind of tokenizer": lambda ids, about: rewrite(about, tokenizer={"kind": "word"}),
    "a damaged tokenizer": lambda ids, about: rewrite(about, tokenizer={"kind": "char"}),
    "another vocabulary": lambda ids, about: rewrite(
        about,
        tokenizer=CharTokenizer.fit(["".join(map(chr, range(0x5000, 0x5000 + 300)))]).to_json(),
    ),
    "an altered id": lambda ids, about: alter(ids, 7),
    "an id beyond the vocabulary": lambda ids, about: alter(ids, 60_000),
    "another text's sum": lambda ids, about: rewrite(about, sha256="0" * 64),
}


@pytest.mark.parametrize("always_checked", [tokens.ALWAYS_CHECKED, 0], ids=["small", "large"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_in_the_cache_is_noticed_and_mended(
    damage: Callable[[Path, Path], object],
    always_checked: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "ALWAYS_CHECKED", always_checked)
    cache = tmp_path / "cache"
    wide = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))  # two bytes an id
    text = write(tmp_path / "text", wide)
    tokenize(text, CharTokenizer, cache)
    ids_path, about_path = sorted(files_in(cache))
    damage(ids_path, about_path)
    told: list[int] = []
    mended = tokenize(text, CharTokenizer, cache, told.append)
    assert sum(told) == 2 * text.n_bytes
    assert mended.ids.whole().tolist() == list(range(300))
    told.clear()
    assert tokenize(text, CharTokenizer, cache, told.append).ids.whole().tolist() == list(
        range(300)
    )
    assert told == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_text_leaves_nothing_behind(
    kind: type[Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", 64)
    path = tmp_path / "text"
    path.write_bytes(b"word " * 100 + b"\xff" + b"word " * 100)
    with pytest.raises(LabError, match=r"not UTF-8: .* at byte 500"):
        tokenize(from_files(str(path)), kind, tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", 64)
    told: list[int] = []

    def interrupt(n_bytes: int) -> None:
        told.append(n_bytes)
        if sum(told) > 500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(write(tmp_path / "text", TEXT), ByteTokenizer, tmp_path / "cache", interrupt)
    assert files_in(tmp_path / "cache") == []


def test_many_ids_are_compared_once_until_they_are_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "ALWAYS_CHECKED", 0)
    text = write(tmp_path / "text", TEXT)
    first = tokenize(text, ByteTokenizer, tmp_path / "cache")
    (ids_path,) = (tmp_path / "cache").rglob("*.bin")
    compared: list[int] = []
    crc32 = zlib.crc32

    def counting(data: bytes, start: int = 0) -> int:
        compared.append(len(memoryview(data).cast("B")))
        return crc32(data, start)

    monkeypatch.setattr(zlib, "crc32", counting)
    for touched in (False, True, False):
        if touched:
            os.utime(ids_path)
        compared.clear()
        again = tokenize(text, ByteTokenizer, tmp_path / "cache")
        assert (again.ids.nbytes in compared) == touched
        assert torch.equal(again.ids.whole(), first.ids.whole())


def test_a_tokenizer_whose_ids_are_beyond_its_vocabulary_is_refused(tmp_path: Path) -> None:
    class Beyond(ByteTokenizer):
        kind = "beyond"

        def __init__(self) -> None:
            super().__init__()
            self.vocab_size = 100

    with pytest.raises(LabError, match="Beyond made the id 240, beyond its vocabulary of 100"):
        tokenize(write(tmp_path / "text", "🙂"), Beyond, tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []


def test_what_a_killed_process_left_is_deleted_after_a_day(tmp_path: Path) -> None:
    folder = tmp_path / "cache/tokens"
    folder.mkdir(parents=True)
    old, new = folder / ".file-char-0.bin.0123abcd", folder / ".file-char-0.bin.abcd0123"
    for path in (old, new):
        path.write_bytes(b"ids")
    os.utime(old, (1, 1))
    tokenize(write(tmp_path / "text", TEXT), ByteTokenizer, tmp_path / "cache")
    assert not old.exists()
    assert new.exists()  # somebody may be writing it


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    text = write(tmp_path / "text", TEXT)
    with pytest.raises(LabError, match=f"cannot write {tmp_path}/text/tokens/file-byte-"):
        tokenize(text, ByteTokenizer, tmp_path / "text")


@pytest.mark.parametrize("kind", [CharTokenizer, ByteTokenizer])
def test_memory_does_not_grow_with_the_text(kind: type[Tokenizer]) -> None:
    repeats = 50_000
    with tempfile.TemporaryDirectory() as folder:  # pytest would keep tmp_path for three runs
        path = Path(folder, "text")
        path.write_bytes(TEXT.encode() * repeats)
        text = from_files(str(path))
        assert text.n_bytes > 60_000_000
        tracemalloc.start()
        try:
            found = tokenize(text, kind, Path(folder, "cache"))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(found.ids) == repeats * len(kind.fit([TEXT]).encode(TEXT))
    assert peak < 20_000_000
