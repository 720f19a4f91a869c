"""Ids that others have prepared: nanoGPT's train.bin and val.bin, and the shards of llm.c, which
modded-nanogpt reads too.

They are mapped as they lie there: nothing is copied, and little of them is read before training
begins. So that is checked which is read: all of small files, some places of large ones, and every
window that is drawn.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import pickle
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmlab.data.corpus import Corpus
from lmlab.data.ids import Ids
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.files import path_typed, read_small

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NANOGPT = np.dtype("<u2")  # its files have no header
HEADER_BYTES = 1024  # of llm.c's shards: 256 int32, of which the first three say something
# The first number of a shard: the version that comes second, and what ids are written as.
FORMATS: dict[int, tuple[int, np.dtype]] = {
    20240520: (1, np.dtype("<u2")),
    20240801: (7, np.dtype("<u4")),
}
META = "meta.pkl"
MOST_META = 1 << 26  # bytes: a vocabulary of all characters that there are takes half of it

READ_WHOLE = 1 << 26  # bytes of a corpus, which take 0.1 s; of a larger one
PLACES = 1024  # so many are read in all, of
PLACE_BYTES = 1 << 12
LOOKED_AFTER = 1.0  # seconds between two looks at whether a file is still what it was


@dataclass(frozen=True)
class Shard:
    """A file of ids."""

    path: Path
    ids: np.ndarray  # mapped
    first_byte: int  # where ids begin
    state: tuple[int, int, int]  # of the file, when it was opened

    @staticmethod
    def opened(path: Path) -> Shard:
        """Map a file, whose header and length are checked.

        Raises:
            LabError: naming the file and the byte that is wrong.
        """
        try:
            state = _state(path)
            with path.open("rb") as file:
                header = file.read(HEADER_BYTES)
            dtype, first_byte = _format(path, header, size=state[1])
            return Shard(path, np.memmap(path, dtype, "r", first_byte), first_byte, state)
        except OSError as error:
            raise LabError(f"corpus.path={path} cannot be read: {error.strerror}") from error

    def check_unchanged(self) -> None:
        """Raises LabError if the file is another than was opened."""
        try:
            now = _state(self.path)
        except OSError:
            now = None
        if now is None:
            raise LabError(f"{self.path} is gone, and was in use")
        if now != self.state:
            raise LabError(
                f"{self.path} was written to while it was in use: it has {now[1]:,} bytes now, and "
                f"had {self.state[1]:,}"
            )


class PreparedIds(Ids):
    """Ids of shards, of which every window is compared with the vocabulary."""

    def __init__(self, parts: Sequence[Any], shards: Sequence[Shard], vocab_size: int):
        super().__init__(*parts)
        self.shards, self.vocab_size, self._look_at = shards, vocab_size, 0.0

    def _of(self, parts: Sequence[Any]) -> Ids:
        return PreparedIds(parts, self.shards, self.vocab_size)

    def windows(self, starts: Tensor, length: int) -> Tensor:
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOKED_AFTER
            for shard in self.shards:
                shard.check_unchanged()
        windows = super().windows(starts, length)
        if len(windows) and int(windows.max()) >= self.vocab_size:
            start = int(starts[(windows >= self.vocab_size).any(1)][0])
            self.check(self[start : start + length].arrays)
        return windows

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Ids:
        self.check(self.arrays)  # all is read now
        return Ids(*self.arrays).to(device, dtype)

    def check(self, arrays: Iterable[np.ndarray]) -> None:
        """Raises LabError if there is an id beyond the vocabulary in these views of the shards."""
        for ids in arrays:
            if len(ids) and ids.max() >= self.vocab_size:
                place = int((ids >= self.vocab_size).argmax())
                path, byte = self._place_of(ids[place:])
                raise LabError(
                    f"{path} has the id {ids[place]:,} at byte {byte:,}, beyond the tokenizer's "
                    f"vocabulary of {self.vocab_size:,}"
                )

    def _place_of(self, view: np.ndarray) -> tuple[Path, int]:
        """The file that a view is a part of, and the byte at which it begins there."""
        for shard in self.shards:
            before = view.ctypes.data - shard.ids.ctypes.data
            if 0 <= before < shard.ids.nbytes:
                return shard.path, shard.first_byte + before
        raise ValueError("no view of these shards")


@dataclass(frozen=True)
class Prepared(Corpus):
    """Files of ids."""

    def ids(self, vocab_size: int, val_fraction: float) -> tuple[PreparedIds, int, str]:
        """The ids, how many of them are the train split's, and a sha256 of what was read of them.

        Raises:
            LabError: naming the file and the byte that is wrong.
        """
        shards = [Shard.opened(path) for path in (*self.files, *self.val_files)]
        dtypes = {shard.ids.dtype: shard.path for shard in reversed(shards)}
        if len(dtypes) > 1:
            other, one = dtypes.values()
            raise LabError(f"{one} and {other} have ids of different sizes")
        ids = PreparedIds([shard.ids for shard in shards], shards, vocab_size)
        n_train = int((1 - val_fraction) * len(ids))
        if self.val_files:
            n_train = sum(len(shard.ids) for shard in shards[: len(self.files)])
        lengths = [[len(shard.ids), shard.ids.itemsize] for shard in shards]
        digest = hashlib.sha256(json.dumps([lengths, len(self.files)]).encode())
        for block in _blocks(shards):
            ids.check([block])
            digest.update(block.data)
        return ids, n_train, digest.hexdigest()

    def tokenizer(self, kind: type[Tokenizer], arguments: dict[str, Any]) -> Tokenizer:
        """What the ids stand for, as far as the config and meta.pkl say it.

        Raises:
            LabError: if they do not, or contradict each other.
        """
        path, named = self.files[0].parent / META, f"tokenizer={kind.kind}"
        instead = "tokenizer=ids tokenizer.vocab_size=… takes ids without knowing their text"
        vocabulary = characters(path) if path.is_file() else None
        if kind.fitted_on_train or (kind.passes > 1 and vocabulary is None):
            raise LabError(
                f"{named} is made from a text, and {self.files[0]} holds ids (no {META} beside it "
                f"says what they stand for): tokenizer=gpt2 if they are GPT-2's; {instead}"
            )
        tokenizer = kind.fit(["".join(vocabulary or [])], **arguments)
        if vocabulary is not None and kind.passes > 1:
            tokens = [tokenizer.token_bytes(i).decode() for i in range(tokenizer.vocab_size)]
            if tokens != vocabulary:
                raise LabError(f"{named}: the characters of {path} are not in order; {instead}")
        elif vocabulary is not None and tokenizer.vocab_size < len(vocabulary):
            raise LabError(
                f"{named} has {tokenizer.vocab_size:,} ids, and {path} has {len(vocabulary):,}"
            )
        return tokenizer


def prepared(path: str, val: str | None = None) -> Corpus:
    """`corpus=prepared`: a folder, in which train files and val files are told by their names, or a
    file or pattern, and perhaps another for val.

    Raises:
        LabError: if nothing is there.
    """
    folder = path_typed(path, "corpus.path")
    if folder.is_dir():
        train, of_val = _matching(folder / "*train*.bin"), _matching(folder / "*val*.bin")
        if not train:
            raise LabError(f"corpus.path={path} has no file *train*.bin; name the files of ids")
    else:
        train, of_val = _matching(folder), []
        if not train:
            raise LabError(f"corpus.path={path}: no such file, and no file matches it as a pattern")
    if val is not None:
        of_val = _matching(path_typed(val, "corpus.val"))
        if not of_val:
            raise LabError(f"corpus.val={val}: no such file, and no file matches it as a pattern")
    return Prepared("prepared", tuple(train), tuple(of_val))


def _blocks(shards: Sequence[Shard]) -> Iterator[np.ndarray]:
    """All ids of a small corpus; of a large one some of each shard, its first and last included."""
    total = sum(shard.ids.nbytes for shard in shards)
    for shard in shards:
        if total <= READ_WHOLE:
            yield shard.ids
            continue
        size = PLACE_BYTES // shard.ids.itemsize
        last = max(len(shard.ids) - size, 0)
        for start in np.linspace(0, last, max(2, PLACES // len(shards))).astype(int).tolist():
            yield shard.ids[start : start + size]


def _format(path: Path, raw: bytes, size: int) -> tuple[np.dtype, int]:
    """What the ids of a file that begins with `raw` are written as, and where they begin."""
    header = np.frombuffer(raw.ljust(HEADER_BYTES, b"\xff"), "<i4")
    magic = int(header[0])
    if magic not in FORMATS:
        if magic and not header[4:].any():  # no text begins with so many zeros
            raise LabError(
                f"{path}: its header says {magic} at byte 0, which is no format of ids; known are "
                f"{', '.join(map(str, FORMATS))}"
            )
        if not size:
            raise LabError(f"{path} is empty")
        if size % NANOGPT.itemsize:
            raise LabError(
                f"{path} ends at byte {size}, within an id of two bytes: is it cut short?"
            )
        return NANOGPT, 0
    known, dtype = FORMATS[magic]
    version, n_tokens = int(header[1]), int(header[2])
    if version != known:
        raise LabError(f"{path}: its header says version {version} at byte 4; known is {known}")
    if (end := HEADER_BYTES + n_tokens * dtype.itemsize) != size or n_tokens < 1:
        raise LabError(
            f"{path}: its header says {n_tokens:,} ids at byte 8, which end at byte {end}; the "
            f"file ends at byte {size}" + ": it is cut short" * (size < end)
        )
    return dtype, HEADER_BYTES


class _PlainUnpickler(pickle.Unpickler):
    """Reads dicts, lists, texts and numbers, and nothing that has to be found or called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and may hold plain values alone")


def characters(path: Path) -> list[str]:
    """The characters that ids stand for, as nanoGPT keeps them in meta.pkl; nothing in it is run.

    Raises:
        LabError: if it is something else.
    """
    try:
        meta = _PlainUnpickler(io.BytesIO(read_small(path, MOST_META))).load()
        itos, vocab_size = meta["itos"], meta["vocab_size"]
        listed = [itos[i] for i in range(len(itos))]
        if len(listed) != vocab_size or not all(isinstance(c, str) for c in listed):
            raise ValueError(f"vocab_size={vocab_size!r:.20} is not the number of its texts")
    except (
        pickle.UnpicklingError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
        MemoryError,
        RecursionError,
    ) as error:
        raise LabError(f"{path} is no vocabulary as nanoGPT keeps it: {error!s:.100}") from error
    return listed


class IdsTokenizer(Tokenizer):
    """Ids of which nobody knows what they stand for: losses are told per token alone."""

    kind = "ids"

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    @classmethod
    def fit(cls, pieces: Iterable[str], vocab_size: int = 0) -> IdsTokenizer:
        if vocab_size < 1:
            raise LabError(f"tokenizer.vocab_size={vocab_size}: at least 1")
        return cls(vocab_size)

    def encode(self, text: str) -> np.ndarray:
        raise LabError("tokenizer=ids knows no text: it is for corpus=prepared, without a prompt")

    def token_bytes(self, token: int) -> bytes:
        return f"<{token}>".encode()

    def characters_per_token(self) -> np.ndarray:
        return np.zeros(self.vocab_size, np.int64)

    def bytes_per_token(self) -> np.ndarray:
        return np.zeros(self.vocab_size, np.int64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "vocab_size": self.vocab_size}

    @classmethod
    def _from_json(cls, state: dict[str, Any]) -> IdsTokenizer:
        return cls(int(state["vocab_size"]))


def _matching(pattern: Path) -> list[Path]:
    paths = map(Path, glob.iglob(str(pattern)))  # noqa: PTH207 (a pattern that a person typed)
    return sorted(path for path in paths if path.is_file())


def _state(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
