"""Documents: from files of every kind to ids, and back."""

import gzip
import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmlab.data.bpe import BPETokenizer
from lmlab.data.corpus import Corpus, from_files
from lmlab.data.sources import documents, records
from lmlab.data.sources.documents import Listener
from lmlab.data.tokenising.pieces import END
from lmlab.data.tokenizer import ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer
from lmlab.data.tokens import TokenizedCorpus, tokenize
from lmlab.errors import LabError

TEXTS = [
    *("Once upon a time.", "naïve 日本 🙂\n", " \n\n ", "<|endoftext|> is text here", "x"),
    *(f"document {i}: the end. " * (i % 7 + 1) for i in range(60)),
]


def as_jsonl(texts: list[Any]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def write_parquet(path: Path, texts: list[Any], column: str = "text", **how: Any) -> None:
    pq.write_table(pa.table({"id": range(len(texts)), column: texts}), path, **how)


def jsonl(path: Path, texts: list[Any] = TEXTS) -> str:
    path.write_bytes(as_jsonl(texts))
    return str(path)


def documents_of(read: Corpus, told: Listener | None = None) -> list[str]:
    text = "".join(read.pieces(told or Listener()))
    return text.split(END)[:-1]


def decoded(text: TokenizedCorpus) -> tuple[list[str], list[str]]:
    """The documents that the ids of train and of val stand for."""
    splits = []
    for split in (text.train, text.val):
        ids = split.whole().numpy()
        *ended, rest = np.split(ids, np.flatnonzero(ids == text.tokenizer.end_of_text) + 1)
        assert not len(rest)
        splits.append([text.tokenizer.decode(document) for document in ended])
    return splits[0], splits[1]


# --- every kind of file ----------------------------------------------------------------------


@pytest.mark.parametrize("compress", [None, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_every_kind_of_file_also_compressed(
    suffix: str, compress: Callable[[bytes], bytes] | None, tmp_path: Path
) -> None:
    path = tmp_path / f"plain{suffix}"
    if suffix == ".parquet":
        write_parquet(path, TEXTS)
    else:
        path.write_bytes(as_jsonl(TEXTS) if suffix == ".jsonl" else TEXTS[1].encode())
    if compress is not None:
        raw = compress(path.read_bytes())
        path = tmp_path / f"packed{suffix}{'.gz' if compress is gzip.compress else '.zst'}"
        path.write_bytes(raw)
    read = from_files(str(path), documents="files" if suffix == ".txt" else None)
    told: list[int] = []
    expected = TEXTS[1:2] if suffix == ".txt" else TEXTS
    assert documents_of(read, Listener(progress=told.append)) == expected
    assert sum(told) == read.n_bytes == path.stat().st_size


def test_one_long_text_is_the_same_compressed(tmp_path: Path) -> None:
    text = "naïve 日本 🙂\n" * 1000
    ids, sums = [], set()
    for name, compress in (("a.txt", bytes), ("b.gz", gzip.compress), ("c.txt.zst", zstd_frames)):
        (tmp_path / name).write_bytes(compress(text.encode()))
        made = tokenize(from_files(str(tmp_path / name)), CharTokenizer, tmp_path / "cache")
        ids.append(made.ids.whole().tolist())
        sums.add(made.sha256)
    assert ids[0] == ids[1] == ids[2]
    assert len(sums) == 1


def zstd_frames(raw: bytes) -> bytes:
    """Two frames, one behind the other."""
    return zstandard.compress(raw[:1001]) + zstandard.compress(raw[1001:])


def test_several_files_by_list_and_pattern_with_other_fields(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b'{"body": "one", "n": 1}\n\n \r\n{"body": "two"}\r\n')
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"body": "zero"}')
    write_parquet(tmp_path / "c.parquet", ["three"], "story")
    paths = [f"{tmp_path}/*.jsonl", f"{tmp_path}/c.parquet"]
    read = from_files(paths, field="body", column="story")
    assert documents_of(read) == ["zero", "one", "two", "three"]


@pytest.mark.parametrize("block_bytes", [1, 3, 7, 64])
def test_lines_are_whole_wherever_blocks_end(
    block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", block_bytes)
    assert documents_of(from_files(jsonl(tmp_path / "a.jsonl"))) == TEXTS


def test_parquet_of_many_row_groups_and_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(pa.table({"text": pa.array(TEXTS, kind)}), path, row_group_size=7)
        assert documents_of(from_files(str(path))) == TEXTS


# --- documents to ids and back ----------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> list[Tokenizer | type[Tokenizer]]:
    learnt = BPETokenizer.fit(["the end of the end of the story. "] * 5, vocab_size=262)
    gpt2 = GPT2Tokenizer.fit([]).with_end_of_text()
    return [CharTokenizer, ByteTokenizer, learnt.with_end_of_text(), gpt2]


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
LIKELY = st.sampled_from([" ", "\n", "  a", "<|endoftext|>", "the end", "\n\n", "."])


@given(
    texts=st.lists(TEXT | st.lists(LIKELY, min_size=1).map("".join), min_size=1, max_size=12),
    size=st.sampled_from([1, 2, 5, 64, 1 << 20]),
    split=st.sampled_from(["hash", "end"]),
    ascii_only=st.booleans(),
)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_documents_come_back(
    fitted: list[Any],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    texts: list[str],
    size: int,
    split: Any,
    ascii_only: bool,
) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", size)
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", size)
    folder = tmp_path_factory.mktemp("any")
    path = folder / "a.jsonl"
    lines = (json.dumps({"text": text}, ensure_ascii=ascii_only) for text in texts)
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    read = from_files(str(path), split=split)
    for kind in fitted:
        known = None if isinstance(kind, type) else kind
        made = tokenize(read, kind if known is None else type(kind), folder, fitted=known)
        train, val = decoded(made)
        if split == "end":
            assert train + val == texts
        else:
            assert sorted(train + val) == sorted(texts)
        one_by_one = [
            [*made.tokenizer.encode(text).tolist(), made.tokenizer.end_of_text]
            for text in train + val
        ]
        assert made.ids.whole().tolist() == [token for ids in one_by_one for token in ids]


@pytest.mark.parametrize("kind", [CharTokenizer, ByteTokenizer, BPETokenizer, GPT2Tokenizer])
def test_the_end_of_text_is_one_more_id_that_stands_for_nothing(kind: type[Tokenizer]) -> None:
    of_text = kind.fit(
        ["the end of the story"], **({"vocab_size": 258} if kind.passes == 3 else {})
    )
    made = of_text.with_end_of_text()
    end = made.end_of_text
    assert of_text.end_of_text is None
    assert "end_of_text" not in of_text.to_json()
    assert end == made.vocab_size - 1
    assert made.vocab_size == of_text.vocab_size + (kind is not GPT2Tokenizer)
    assert made.token_bytes(end) == b""
    assert made.opening().tolist() == [end]
    assert made.characters_per_token()[end] == made.bytes_per_token()[end] == 0
    again = Tokenizer.from_json(json.loads(json.dumps(made.stored())))
    assert (again.end_of_text, again.stored()) == (end, made.stored())
    assert made.encode("the story").tolist() == of_text.encode("the story").tolist()
    assert made.encode_documents(f"the{END}story").tolist() == [
        *made.encode("the").tolist(),
        end,
        *made.encode("story").tolist(),
    ]


def test_no_pair_of_bytes_is_learnt_across_documents() -> None:
    learnt = BPETokenizer.fit([f"ab{END}" * 10 + f"a{END}" * 10], vocab_size=257)
    assert learnt.token_bytes(256) == b"ab"
    with pytest.raises(LabError, match="at most 257"):
        BPETokenizer.fit([f"ab{END}" * 10], vocab_size=258)


def test_a_tokenizer_of_ones_own_may_have_no_end(tmp_path: Path) -> None:
    class Own(CharTokenizer):
        kind = "own"

        @classmethod
        def _from_json(cls, state: dict[str, Any]) -> CharTokenizer:
            return cls(state["vocabulary"])

    with pytest.raises(LabError, match="Own has no end_of_text, the id behind each document"):
        tokenize(from_files(jsonl(tmp_path / "a.jsonl")), Own, tmp_path / "cache")


# --- train and val ----------------------------------------------------------------------------


def test_a_documents_own_text_decides_where_it_belongs(tmp_path: Path) -> None:
    texts = [f"document {i % 2500}" for i in range(3000)]  # 500 of them twice
    first = tokenize(from_files(jsonl(tmp_path / "a.jsonl", texts)), ByteTokenizer, tmp_path)
    train, val = decoded(first)
    assert len(val) == pytest.approx(300, abs=60)
    assert not set(train) & set(val), "what occurs twice is on one side"
    other_way = from_files(jsonl(tmp_path / "b.jsonl", [*texts[::-1], "another"]))
    _, again = decoded(tokenize(other_way, ByteTokenizer, tmp_path))
    assert set(again) - {"another"} == set(val)
    write_parquet(tmp_path / "c.parquet", texts)
    columns = tokenize(from_files(str(tmp_path / "c.parquet")), ByteTokenizer, tmp_path)
    assert columns.sha256 == first.sha256, "the same documents are the same text"


def test_val_may_be_the_last_documents_or_other_files(tmp_path: Path) -> None:
    path, cache = jsonl(tmp_path / "a.jsonl"), tmp_path / "cache"
    made = tokenize(from_files(path, split="end"), CharTokenizer, cache, val_fraction=0.25)
    n_train = int(0.75 * len(TEXTS))
    assert decoded(made) == (TEXTS[:n_train], TEXTS[n_train:])
    (tmp_path / "val.txt").write_text("other files")
    others = from_files(path, documents="files", val=str(tmp_path / "val.txt"))
    made_of_others = tokenize(others, CharTokenizer, cache)
    assert decoded(made_of_others) == (TEXTS, ["other files"])
    assert made_of_others.sha256 != made.sha256


def test_one_long_text_may_have_its_val_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("to train on " * 9)
    (tmp_path / "val.txt").write_text("to see")
    read = from_files(str(tmp_path / "train.txt"), val=[str(tmp_path / "val.txt")])
    for kind in (CharTokenizer, BPETokenizer):
        arguments = {"vocab_size": 258} if kind is BPETokenizer else {}
        made = tokenize(read, kind, tmp_path / "cache", arguments=arguments)
        assert made.tokenizer.end_of_text is None
        assert made.tokenizer.decode(made.train.whole().tolist()) == "to train on " * 9
        assert made.tokenizer.decode(made.val.whole().tolist()) == "to see"


# --- what is broken ---------------------------------------------------------------------------

GOOD = b'{"text": "whole"}\n'
BROKEN_LINES = {
    "no JSON": (b'{"text": "a}', r"record 2 at byte 18 is no JSON: Unterminated string .* byte 27"),
    "a list": (
        b"[1, 2]",
        r"record 2 at byte 18 has no field 'text' \(corpus\.field\), but \[1, 2\]",
    ),
    "no field": (b'{"txt": "a", "id": 7}', r"record 2 .* has no field 'text' .*, but txt, id"),
    "a number": (b'{"text": 7}', r"record 2 at byte 18: its field 'text' is no text, but 7"),
    "null": (b'{"text": null}', r"its field 'text' is no text, but null"),
    "not UTF-8": (b'{"text": "caf\xe9"}', r"record 2 at byte 18 is not UTF-8: .* at byte 31"),
    "a NUL": (b'{"text": "ab\\u0000"}', r"its field 'text' holds a NUL at byte 2"),
    "half a pair": (b'{"text": "\\ud83d"}', r"holds U\+D83D, which is no character"),
    "empty": (b'{"text": ""}', r"record 2 at byte 18: its field 'text' is empty"),
    "too deep": (b'{"text": ' + b"[" * 100_000, r"record 2 at byte 18 is no JSON"),
    "a number beyond measure": (b'{"text": ' + b"1" * 5000 + b"}", r"record 2 .* is no JSON"),
    "too long": (b'{"text": "' + b"a" * 2000 + b'"}', r"record 2 at byte 18: a document of more"),
}


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_a_broken_line_is_named_or_left_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, message = BROKEN_LINES[name]
    if name == "too long":
        monkeypatch.setattr(records, "LONGEST", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(LabError, match=message) as error:
        documents_of(from_files(str(path)))
    assert str(error.value).startswith(f"corpus.path={path}")
    assert str(error.value).endswith("; corpus.skip_broken=true leaves out what is broken")
    left_out: list[LabError] = []
    read = from_files(str(path), skip_broken=True)
    assert documents_of(read, Listener(broken=left_out.append)) == ["whole", "whole"]
    assert len(left_out) == 1


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "altered", "something else"])
def test_a_damaged_file_is_named_and_what_stood_before_kept(
    suffix: str, damage: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(97, 122, 500))) for _ in range(5000)]
    raw = {".gz": gzip.compress, ".zst": zstandard.compress}[suffix](as_jsonl(texts))
    path = tmp_path / f"a.jsonl{suffix}"
    if damage == "altered":
        middle = len(raw) // 2
        raw = raw[:middle] + bytes(100) + raw[middle + 100 :]
    path.write_bytes({"cut": raw[: len(raw) // 2], "something else": b"text"}.get(damage, raw))
    what = {"cut": "is cut short: .* bytes", "altered": ".*"}.get(
        damage, "is not compressed as its name says, or"
    )
    with pytest.raises(LabError, match=rf"a\.jsonl\{suffix},? {what}"):
        documents_of(from_files(str(path)))
    left_out: list[LabError] = []
    kept = documents_of(from_files(str(path), skip_broken=True), Listener(broken=left_out.append))
    assert left_out
    if damage != "altered":  # which may change a letter and be noticed only at the end
        assert kept == texts[: len(kept)]
        assert (len(kept) > 2000) == (damage == "cut")


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for values, message in (
        (["a", None], "record 2: its column 'text' is no text, but null"),
        (["a", ""], "record 2: its column 'text' is empty"),
        (["a", "b\0"], "record 2: its column 'text' holds a NUL at byte 1"),
        ([1, 2], "has a column 'text' of int64, and no texts"),
    ):
        write_parquet(path, values)
        with pytest.raises(LabError, match=message):
            documents_of(from_files(str(path)))
    with pytest.raises(LabError, match=r"has no column 'story' \(corpus\.column\), but id, text"):
        documents_of(from_files(str(path), column="story"))
    whole = path.read_bytes()
    for raw in (whole[: len(whole) // 2], b"PAR1" + bytes(100) + b"PAR1", b"text"):
        path.write_bytes(raw)
        with pytest.raises(LabError, match="is no Parquet file, or damaged"):
            documents_of(from_files(str(path)))
    not_utf8 = pa.array([b"a", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": not_utf8}), path)
    with pytest.raises(LabError, match=r"record 2 is not UTF-8: .* at byte 3"):
        documents_of(from_files(str(path)))
    assert documents_of(from_files(str(path), skip_broken=True)) == ["a"]


def test_broken_files_of_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_bytes(b"\xef\xbb\xbfwhole")
    for content, message in (
        (b"\xef\xbb\xbfcaf\xe9", "2.txt is not UTF-8: .* at byte 6"),
        (b"a\0", "2.txt: it holds a NUL at byte 1"),
        (b"", "2.txt: it is empty"),
    ):
        (tmp_path / "2.txt").write_bytes(content)
        with pytest.raises(LabError, match=message):
            documents_of(from_files(f"{tmp_path}/*.txt", documents="files"))
        read = from_files(f"{tmp_path}/*.txt", documents="files", skip_broken=True)
        assert documents_of(read) == ["whole"]


@pytest.mark.parametrize("kind", [CharTokenizer, ByteTokenizer])
def test_files_without_a_single_document_are_refused(kind: type[Tokenizer], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n\n")
    with pytest.raises(LabError, match=r"no document|at least one character"):
        tokenize(from_files(str(path), skip_broken=True), kind, tmp_path / "cache")


def test_what_was_left_out_is_kept_with_the_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(TEXTS) + b"{\n[]\n")
    read = from_files(str(path), skip_broken=True)
    for _ in range(2):  # made, then read
        made = tokenize(read, CharTokenizer, tmp_path / "cache")
        assert made.left_out is not None
        assert made.left_out.startswith("corpus.skip_broken: 2 left out, the first: corpus.path=")


def test_a_file_that_changes_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 100)
    monkeypatch.setattr(records, "BLOCK_BYTES", 100)
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
        path = tmp_path / name
        raw = as_jsonl(TEXTS)
        if name != "a.jsonl":
            raw = gzip.compress(raw) if name.endswith("gz") else zstandard.compress(raw)
        path.write_bytes(raw)
        pieces = from_files(str(path), skip_broken=True).pieces()
        next(pieces)
        with path.open("ab") as file:
            file.write(b"{")
        with pytest.raises(LabError, match="changed while it was read"):
            list(pieces)


def test_a_file_that_changes_between_two_passes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    jsonl(path)

    class Slow(CharTokenizer):
        kind = "slow"

        @classmethod
        def fit(cls, pieces: Any) -> CharTokenizer:
            made = super().fit(pieces)
            jsonl(path, TEXTS[::-1])
            os.utime(path, (1, 1))
            return made

    with pytest.raises(LabError, match="its files changed while they were tokenised"):
        tokenize(from_files(str(path)), Slow, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.bin"))


@pytest.mark.parametrize(("suffix", "library"), [(".zst", "zstandard"), (".parquet", "pyarrow")])
def test_without_its_library_the_extra_is_named(
    suffix: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"whatever")
    with pytest.raises(
        LabError, match=rf"^corpus\.path={path} needs the extra `data`: pip install"
    ):
        list(from_files(str(path)).pieces())


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl")
    (tmp_path / "a.txt").write_text("text")
    for arguments, message in (
        ({"path": [path, f"{tmp_path}/a.txt"]}, "has records and texts: with corpus.documents=fi"),
        ({"path": f"{tmp_path}/a.txt", "skip_broken": True}, "this is one long text"),
        ({"path": []}, r"corpus\.path=\[\] names no file"),
        ({"path": path, "val": "missing"}, r"corpus\.val=missing: no such file"),
    ):
        with pytest.raises(LabError, match=message):
            from_files(**arguments)


def test_memory_does_not_grow_with_a_file_of_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        for i in range(10_000):
            file.write(json.dumps({"text": f"document {i} " + "which goes on " * 200}) + "\n")
    tracemalloc.start()
    try:
        made = tokenize(from_files(str(path)), ByteTokenizer, tmp_path / "cache")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(made.ids) > 28_000_000
    assert peak < 20_000_000
    for left in (tmp_path / "cache").rglob("*.bin"):
        left.unlink()  # pytest keeps the folder
