"""Ids that others have prepared: which files, what they stand for, and what is wrong with them."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import same, weights

from lmlab.data import prepared as module
from lmlab.data.bpe import BPETokenizer
from lmlab.data.prepared import IdsTokenizer, Prepared, characters, prepared
from lmlab.data.tokenizer import ByteTokenizer, CharTokenizer, GPT2Tokenizer
from lmlab.data.windows import draw_windows
from lmlab.errors import LabError

TEXT = "to be, or not to be: that is the question\n" * 40


def nanogpt(folder: Path, text: str = TEXT) -> Path:
    """What nanoGPT's prepare.py leaves."""
    folder.mkdir(exist_ok=True)
    chars = sorted(set(text))
    ids = np.array([chars.index(c) for c in text], np.uint16)
    n_train = int(0.9 * len(ids))
    ids[:n_train].tofile(folder / "train.bin")
    ids[n_train:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(chars), "itos": dict(enumerate(chars))}
    meta["stoi"] = {c: i for i, c in enumerate(chars)}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder


def shard(path: Path, ids: Any, magic: int = 20240520, version: int = 1, count: int = -1) -> Path:
    """A shard as llm.c writes it."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if count < 0 else count
    path.write_bytes(
        header.tobytes() + np.array(ids, "<u4" if magic == 20240801 else "<u2").tobytes()
    )
    return path


def opened(path: Path | str, vocab_size: int = 50_257, **more: Any) -> tuple[Any, int, str]:
    corpus = prepared(str(path), **more)
    assert isinstance(corpus, Prepared)
    return corpus.ids(vocab_size, val_fraction=0.1)


def tokenizer(folder: Path, kind: Any, **arguments: Any) -> Any:
    corpus = prepared(str(folder))
    assert isinstance(corpus, Prepared)
    return corpus.tokenizer(kind, arguments)


def test_nanogpts_folder_is_its_text(tmp_path: Path) -> None:
    ids, n_train, _ = opened(nanogpt(tmp_path / "nano"))
    made = tokenizer(tmp_path / "nano", CharTokenizer)
    assert made.decode(ids.whole()) == TEXT
    assert n_train == int(0.9 * len(TEXT))
    assert made.stored() == CharTokenizer.fit([TEXT]).stored()


@pytest.mark.parametrize(("magic", "version"), [(20240520, 1), (20240801, 7)])
def test_shards_follow_each_other(tmp_path: Path, magic: int, version: int) -> None:
    for n in range(3):
        shard(tmp_path / f"fw_train_{n:06}.bin", range(100 * n, 100 * n + 100), magic, version)
    shard(tmp_path / "fw_val_000000.bin", range(300, 350), magic, version)
    for path, val in ((tmp_path, None), (tmp_path / "*_train_*", str(tmp_path / "*_val_*"))):
        ids, n_train, _ = opened(path, val=val)
        assert ids.whole().tolist() == list(range(350))
        assert n_train == 300
    windows = draw_windows(ids[:n_train], 1, 64, 30, torch.Generator().manual_seed(1))[0]
    assert torch.equal(windows.diff(), torch.ones(64, 30).long())
    _, n_train, _ = opened(tmp_path / "*_train_*")
    assert n_train == 270


def test_they_are_known_again_wherever_they_lie_and_not_once_an_id_is_another(
    tmp_path: Path,
) -> None:
    def sha256() -> str:
        return opened(tmp_path / "nano", vocab_size=65)[2]

    nanogpt(tmp_path / "nano")
    before = sha256()
    (tmp_path / "nano").rename(tmp_path / "elsewhere")
    assert opened(tmp_path / "elsewhere", vocab_size=65)[2] == before
    nanogpt(tmp_path / "nano", TEXT.replace("that", "thot", 1))
    assert sha256() != before


def test_of_large_ones_few_places_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_WHOLE", 0)
    ids = np.ones(1 << 22, np.uint16)
    ids[1 << 21] = 3  # between two places
    ids.tofile(tmp_path / "train.bin")
    prepared_ids, *_ = opened(tmp_path, vocab_size=2)
    begin = (1 << 21) - 5
    assert prepared_ids.windows(torch.tensor([0, begin - 7]), 8).unique().tolist() == [1]
    with pytest.raises(LabError, match=rf"train\.bin has the id 3 at byte {1 << 22:,}, beyond"):
        prepared_ids[10:].windows(torch.tensor([0, begin - 10]), 8)
    with pytest.raises(LabError, match=rf"train\.bin has the id 3 at byte {1 << 22:,}, beyond"):
        prepared_ids.to(torch.device("cpu"), torch.int32)


def test_a_file_that_changes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_AFTER", 0.0)
    ids, *_ = opened(nanogpt(tmp_path / "nano"))
    ids.windows(torch.tensor([0]), 8)
    with (tmp_path / "nano/val.bin").open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(LabError, match=r"val\.bin was written to while it was in use"):
        ids.windows(torch.tensor([0]), 8)
    (tmp_path / "nano/val.bin").unlink()
    with pytest.raises(LabError, match=r"val\.bin is gone"):
        ids[:100].windows(torch.tensor([0]), 8)


BROKEN = {
    "odd": (lambda p: p.write_bytes(b"123"), r"train\.bin ends at byte 3, within an id"),
    "empty": (lambda p: p.write_bytes(b""), r"train\.bin is empty"),
    "short": (
        lambda p: os.truncate(shard(p, range(100)), 1100),
        r"says 100 ids at byte 8, which end at byte 1224; the file ends at byte 1100: it is cut",
    ),
    "only a header": (lambda p: os.truncate(shard(p, [1]), 1000), r"at byte 8, .*byte 1000"),
    "long": (lambda p: shard(p, range(100), count=99), r"end at byte 1222; .*at byte 1224$"),
    "magic": (lambda p: shard(p, [1], magic=20240522), r"says 20240522 at byte 0, .*20240520"),
    "version": (lambda p: shard(p, [1], version=2), r"says version 2 at byte 4; known is 1"),
    "id": (
        lambda p: shard(p, [1, 50_256, 50_257]),
        r"has the id 50,257 at byte 1,028, beyond the tokenizer's vocabulary of 50,257",
    ),
    "mixed": (
        lambda p: (shard(p, [1] * 9), shard(p.with_name("train2.bin"), [1] * 9, 20240801, 7)),
        r"train\.bin and .*train2\.bin have ids of different sizes",
    ),
}


@pytest.mark.parametrize(("broken", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_wrong_is_one_line_with_the_byte(tmp_path: Path, broken: Any, message: str) -> None:
    broken(tmp_path / "train.bin")
    with pytest.raises(LabError, match=message):
        opened(tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"has no file \*train\*\.bin"):
        prepared(str(tmp_path))
    with pytest.raises(LabError, match=r"corpus\.path=.*/x-\*: no such file, and no file matches"):
        prepared(str(tmp_path / "x-*"))
    with pytest.raises(LabError, match=r"corpus\.val=.*/y: no such file"):
        prepared(str(nanogpt(tmp_path / "nano")), val=str(tmp_path / "y"))


def test_what_ids_stand_for_is_said_or_refused(tmp_path: Path) -> None:
    nanogpt(tmp_path / "nano")
    assert isinstance(tokenizer(tmp_path / "nano", ByteTokenizer), ByteTokenizer)
    with pytest.raises(LabError, match=r"tokenizer=ids has 3 ids, and .*meta\.pkl has 16"):
        tokenizer(tmp_path / "nano", IdsTokenizer, vocab_size=3)
    with pytest.raises(LabError, match=r"tokenizer=bpe is made from a text"):
        tokenizer(tmp_path / "nano", BPETokenizer, vocab_size=300)
    (tmp_path / "nano/meta.pkl").unlink()
    with pytest.raises(
        LabError, match=r"no meta\.pkl beside it .*tokenizer=gpt2 if .*tokenizer=ids"
    ):
        tokenizer(tmp_path / "nano", CharTokenizer)
    assert tokenizer(tmp_path / "nano", GPT2Tokenizer).vocab_size == 50_257
    ids = tokenizer(tmp_path / "nano", IdsTokenizer, vocab_size=7)
    assert (ids.decode([3, 1]), ids.opening().tolist()) == ("<3><1>", [0])


class Runs:
    """Pickled so that reading it would call something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (Runs(), "it names posix.mkdir"),
        ({"vocab_size": 1, "itos": {0: Runs()}}, "it names posix.mkdir"),
        ([1, 2], "list indices"),
        ({"vocab_size": 2, "itos": {0: "a"}}, "vocab_size=2 is not the number"),
        ({"vocab_size": 1, "itos": {0: 5}}, "is not the number of its texts"),
        ({"vocab_size": 1, "itos": {1: "a"}}, "keeps it: 0"),
    ],
)
def test_nothing_in_a_vocabulary_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meta: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(LabError, match=rf"meta\.pkl is no vocabulary as nanoGPT .*{message}"):
        characters(Path("meta.pkl"))
    assert not Path("ran").exists()
    Path("meta.pkl").write_bytes(pickle.dumps({"itos": {}})[:-3])
    with pytest.raises(LabError, match="no vocabulary as nanoGPT keeps it"):
        characters(Path("meta.pkl"))


def test_a_run_on_prepared_ids_is_the_run_on_their_text(
    experiment: Any, tmp_path: Path, tinyshakespeare_text: str
) -> None:
    text = tinyshakespeare_text[:100_000]
    (tmp_path / "text.txt").write_text(text)
    words = ["model=bigram", "data.val_fraction=0.1"]
    ours = experiment(*words, f"corpus.path={tmp_path}/text.txt", "corpus=file")
    theirs = experiment(
        *words, f"corpus.path={nanogpt(tmp_path / 'nano', text)}", "corpus=prepared"
    )
    assert same(weights(ours), weights(theirs))
    losses = [run.record["metrics"]["val/loss_full"] for run in (ours, theirs)]
    assert losses[0] == losses[1]
