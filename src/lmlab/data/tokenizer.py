"""Tokenizers: text to ids and back, and plain JSON, so that a checkpoint carries its own.

>>> tokenizer = CharTokenizer.fit(["hi meng"])
>>> tokenizer.decode(tokenizer.encode("meng"))
'meng'
"""

from __future__ import annotations

import base64
import codecs
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from lmlab.config.targets import class_name
from lmlab.config.trust import VARIABLE, UntrustedError, is_allowed
from lmlab.data.sources.blocks import import_extra
from lmlab.data.tokenising.pieces import END, cut_between_words, parts_between_words
from lmlab.errors import LabError

WITHOUT_BPE = "tokenizer=char and tokenizer=byte need nothing"
PART = 1 << 13  # characters that tiktoken is given at a time: the fastest
N_CODE_POINTS = 0x110000
END_SHOWN = "<|endoftext|>\n"  # where a sample goes on with another document
SINGLE_BYTES = [bytes([byte]) for byte in range(256)]


class Tokenizer(ABC):
    """What the rest of the lab needs of a tokenizer.

    A subclass has a `kind`, which is part of names of files, and sets `vocab_size`. Its JSON is
    recognised by `kind` if the class is in this file, else by the class.
    """

    kind: ClassVar[str]
    passes: ClassVar[int] = 1  # of a corpus: to fit, where `fit` looks at it, and to encode
    # Whether `fit` is given the train split alone. Val then begins at a character, not at a token.
    fitted_on_train: ClassVar[bool] = False
    # The most characters of it; of a larger one pieces from all over it. None: all that there are.
    learns_from: ClassVar[int | None] = None
    # Whether `encode` may run in several threads at once, and lets go of Python's lock meanwhile.
    in_threads: ClassVar[bool] = False
    vocab_size: int
    end_of_text: int | None = None  # the id behind each document; None: it is for one long text
    _kinds: ClassVar[dict[str, type[Tokenizer]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ == __name__:
            Tokenizer._kinds[cls.kind] = cls

    @classmethod
    @abstractmethod
    def fit(cls, pieces: Iterable[str]) -> Tokenizer:
        """The tokenizer for a text that comes in pieces; kinds that need not look ignore it.

        A subclass may take more: all keys of its config but `_target_` are given by name.
        """

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Ids of `text`, 1-D, in the smallest integer type that holds the vocabulary."""

    def encode_documents(self, text: str) -> np.ndarray:
        """Ids of documents of which each ends with END; the last may go on in the text to come."""
        *ended, begun = text.split(END)
        end = np.array([self.end_of_text], dtype=self.dtype)
        ids = [part for document in ended for part in (self.encode(document), end)]
        return np.concatenate([*ids, self.encode(begun)])

    def with_end_of_text(self) -> Tokenizer:
        """The same for a corpus of documents: with an id, the last, that stands for no text.

        Raises:
            LabError: if its class makes none where its JSON has `end_of_text`.
        """
        made = self._from_json({**self.to_json(), "end_of_text": True})
        if made.end_of_text is None:
            raise LabError(
                f"tokenizer: {class_name(type(self))} has no end_of_text, the id behind each "
                "document of such a corpus"
            )
        return made

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that one id stands for (perhaps only a part of a character)."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything needed to rebuild this tokenizer, as plain JSON."""

    @classmethod
    @abstractmethod
    def _from_json(cls, state: dict[str, Any]) -> Tokenizer:
        """The tokenizer whose `to_json` this was."""

    def stored(self) -> dict[str, Any]:
        """What a checkpoint keeps for `from_json`: `to_json`, and the class if it is not ours."""
        if type(self).__module__ == __name__:
            return self.to_json()
        return {**self.to_json(), "kind": self.kind, "class": class_name(type(self))}

    @staticmethod
    def from_json(state: dict[str, Any], own: type[Tokenizer] | None = None) -> Tokenizer:
        """Rebuild what `stored` gave. A class `own`, as a config of one's own names it, need not be
        trusted.

        Raises:
            LabError: if it is not the JSON of a known kind of tokenizer, or its class is not there.
        """
        kind = state.get("kind") if isinstance(state, dict) else None
        if own is not None:
            known = own
        elif isinstance(kind, str) and "class" in state:
            known = _subclass(state["class"])
        elif isinstance(kind, str) and kind in Tokenizer._kinds:
            known = Tokenizer._kinds[kind]
        else:
            kinds = ", ".join(sorted(Tokenizer._kinds))
            raise LabError(f"tokenizer of unknown kind {kind!r}; known kinds: {kinds}")
        try:
            return known._from_json(state)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise LabError(f"the stored {kind} tokenizer is damaged: {error!r}") from error

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer type that holds every id."""
        return np.min_scalar_type(self.vocab_size - 1)

    def opening(self) -> np.ndarray:
        """What to continue where no prompt is given: the end of the document before; else a line
        break, or id 0 if that is unknown."""
        if self.end_of_text is not None:
            return np.array([self.end_of_text], dtype=self.dtype)
        try:
            return self.encode("\n")
        except LabError:
            return np.zeros(1, dtype=self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`. Bytes that are no UTF-8 (a sample may hold any) become U+FFFD."""
        return b"".join(self.token_bytes(int(i)) for i in ids).decode("utf-8", errors="replace")

    def characters_per_token(self) -> np.ndarray:
        """(vocab_size,) how many characters begin in each token.

        Summed over the ids of a text it counts the text's characters exactly, wherever tokens cut
        them: every UTF-8 character has one byte that is not a continuation byte (0b10xxxxxx).
        """
        tokens = map(self.token_bytes, range(self.vocab_size))
        begins = [sum(byte & 0xC0 != 0x80 for byte in token) for token in tokens]
        return np.array(begins, dtype=np.int64)

    def bytes_per_token(self) -> np.ndarray:
        """(vocab_size,) how many bytes each token stands for."""
        return np.array([len(self.token_bytes(i)) for i in range(self.vocab_size)], dtype=np.int64)

    def cut(self, pieces: Iterable[str]) -> Iterator[str]:
        """Cut a text anew so that encoding piece by piece equals encoding it whole."""
        return iter(pieces)


class CharTokenizer(Tokenizer):
    """One id per character; the vocabulary is the sorted distinct characters of the corpus."""

    kind = "char"
    passes = 2

    def __init__(self, vocabulary: str, has_end: bool = False):
        """`has_end`: there is an end-of-text id."""
        if not vocabulary or list(vocabulary) != sorted(set(vocabulary)):
            raise ValueError("vocabulary must be sorted, without repetition and not empty")
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary) + has_end
        # Code point -> id, one gather for a whole text. vocab_size itself stands for "unknown".
        self._ids = np.full(N_CODE_POINTS, self.vocab_size, np.min_scalar_type(self.vocab_size))
        self._ids[_code_points(vocabulary)] = np.arange(len(vocabulary))
        if has_end:
            if END in vocabulary:
                raise ValueError("a vocabulary with a NUL has no end-of-text id")
            self.end_of_text = self._ids[ord(END)] = len(vocabulary)
        # The same for text of one byte a character: bytes.translate is three times as fast.
        self._one_byte_ids = self._ids[:256].tobytes() if self._ids.itemsize == 1 else None

    @classmethod
    def fit(cls, pieces: Iterable[str]) -> CharTokenizer:
        seen = np.zeros(N_CODE_POINTS, dtype=bool)
        known = b""  # of one byte
        for piece in pieces:
            if (one_byte := _latin_1(piece)) is not None:
                new = bytes(set(one_byte.translate(None, delete=known)))
                known += new
                seen[list(new)] = True
            else:
                seen[_code_points(piece)] = True
        if not seen.any():
            raise LabError("tokenizer=char needs a text of at least one character")
        return cls("".join(map(chr, np.flatnonzero(seen))))

    def encode(self, text: str) -> np.ndarray:
        """Ids of `text`.

        Raises:
            LabError: naming the characters that the vocabulary lacks.
        """
        if self.end_of_text is not None and END in text:
            raise self._unknown(text)
        return self.encode_documents(text)

    def encode_documents(self, text: str) -> np.ndarray:
        one_byte = None if self._one_byte_ids is None else _latin_1(text)
        if one_byte is not None:
            ids = np.frombuffer(one_byte.translate(self._one_byte_ids), dtype=np.uint8)
        else:
            ids = self._ids[_code_points(text)]
        if len(ids) and ids.max() == self.vocab_size:
            raise self._unknown(text if self.end_of_text is None else text.replace(END, ""))
        return ids.astype(self.dtype, copy=False)

    def _unknown(self, text: str) -> LabError:
        unknown = sorted(set(text) - set(self.vocabulary))
        named = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in unknown[:10])
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        return LabError(
            f"characters that this char tokenizer does not know: {named}{more}; "
            f"it knows {len(self.vocabulary)}: {self.vocabulary[:100]!r}"
        )

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == self.end_of_text else self.vocabulary[token].encode()

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "vocabulary": self.vocabulary, **end_of(self)}

    @classmethod
    def _from_json(cls, state: dict[str, Any]) -> CharTokenizer:
        has_end, vocabulary = has_end_of(state), state["vocabulary"]
        return cls(vocabulary.replace(END, "") if has_end else vocabulary, has_end)


class ByteTokenizer(Tokenizer):
    """One id per UTF-8 byte: no text is unknown to it."""

    kind = "byte"

    def __init__(self, has_end: bool = False):
        self.vocab_size = 256 + has_end
        self.end_of_text = 256 if has_end else None

    @classmethod
    def fit(cls, pieces: Iterable[str]) -> ByteTokenizer:
        return cls()

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(self.dtype, copy=False)

    def encode_documents(self, text: str) -> np.ndarray:
        ids = self.encode(text)
        return np.where(ids == ord(END), self.dtype.type(256), ids)

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == self.end_of_text else bytes([token])

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **end_of(self)}

    @classmethod
    def _from_json(cls, state: dict[str, Any]) -> ByteTokenizer:
        return cls(has_end_of(state))


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte pair encoding, by tiktoken (extra `bpe`). Special tokens are plain text here."""

    kind = "gpt2"
    in_threads = True

    def __init__(self, ranks: Sequence[bytes], has_end: bool = False):
        """`ranks[i]` is the byte string of id i; the id after the last is <|endoftext|>, which
        `has_end` makes the end-of-text id."""
        tiktoken, openai_public = _import_tiktoken()
        self.ranks = list(ranks)
        distinct = set(self.ranks)
        if len(distinct) != len(self.ranks) or not distinct.issuperset(SINGLE_BYTES):
            raise ValueError("ranks must be distinct and hold every single byte")
        self.vocab_size = len(self.ranks) + 1
        self.end_of_text = len(self.ranks) if has_end else None
        self._end_written = openai_public.ENDOFTEXT
        self._encoding = tiktoken.Encoding(
            "gpt2",
            pat_str=openai_public.r50k_pat_str,
            mergeable_ranks={token: rank for rank, token in enumerate(self.ranks)},
            special_tokens={openai_public.ENDOFTEXT: len(self.ranks)},
        )

    @classmethod
    def fit(cls, pieces: Iterable[str]) -> GPT2Tokenizer:
        from lmlab.data.sources.download import gpt2_ranks

        _import_tiktoken()  # a missing extra is an error before any file is looked for
        return cls(gpt2_ranks())

    def encode(self, text: str) -> np.ndarray:
        return self._encoded(parts_between_words(text, PART), disallowed_special=())

    def encode_documents(self, text: str) -> np.ndarray:
        if self._end_written in text:  # which is plain text there
            return super().encode_documents(text)
        parts = parts_between_words(text, PART)
        written = (part.replace(END, self._end_written) for part in parts)
        return self._encoded(written, allowed_special={self._end_written})

    def _encoded(self, parts: Iterable[str], **special: Any) -> np.ndarray:
        encode = self._encoding.encode_to_numpy
        ids = [encode(part, **special).astype(self.dtype) for part in parts]
        return np.concatenate([np.empty(0, self.dtype), *ids])

    def token_bytes(self, token: int) -> bytes:
        if token == self.end_of_text:
            return b""
        return self._encoding.decode_single_token_bytes(token)

    def to_json(self) -> dict[str, Any]:
        ranks = [base64.b64encode(rank).decode() for rank in self.ranks]
        return {"kind": self.kind, "ranks": ranks, **end_of(self)}

    @classmethod
    def _from_json(cls, state: dict[str, Any]) -> GPT2Tokenizer:
        ranks = [base64.b64decode(rank, validate=True) for rank in state["ranks"]]
        return cls(ranks, has_end_of(state))

    def cut(self, pieces: Iterable[str]) -> Iterator[str]:
        return cut_between_words(pieces, self.end_of_text is not None)


def stream_text(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Text of tokens as they come; a character cut in two by tokens waits for its other half.

    Where a document ends and another begins, END_SHOWN says so.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        is_end = token == tokenizer.end_of_text
        if text := decoder.decode(tokenizer.token_bytes(token), final=is_end):
            yield text
        if is_end:
            yield END_SHOWN
    if rest := decoder.decode(b"", final=True):
        yield rest


def end_of(tokenizer: Tokenizer) -> dict[str, int]:
    """The end-of-text id, kept where there is one."""
    return {} if tokenizer.end_of_text is None else {"end_of_text": tokenizer.end_of_text}


def has_end_of(state: dict[str, Any]) -> bool:
    """Whether a tokenizer had one that was kept so."""
    return state.get("end_of_text") is not None


def _subclass(name: Any) -> type[Tokenizer]:
    """The tokenizer's class of that name; its module is imported, and nothing else is called."""
    if not is_allowed(name):
        shown = str(name)[:100]
        raise UntrustedError(
            f"the tokenizer's class {shown}: not a lmlab tokenizer, nor of a package that you "
            f"trust; if you do, {VARIABLE}={shown.partition('.')[0]} allows it"
        )
    try:
        kind = pkgutil.resolve_name(name)
    except Exception as error:  # whatever importing somebody's module raises
        raise LabError(f"the tokenizer's class {name} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Tokenizer)):
        raise LabError(f"the tokenizer's class {name}: not a {class_name(Tokenizer)}")
    return kind


def _latin_1(text: str) -> bytes | None:
    """A byte for each character, which is its code point; None if one needs more."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return None


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _import_tiktoken() -> tuple[Any, Any]:
    needs = "bpe", "tokenizer=gpt2", WITHOUT_BPE
    return import_extra("tiktoken", *needs), import_extra("tiktoken_ext.openai_public", *needs)
