"""Tokenizers as `tokenizer.json`, which Hugging Face's tools read; and nanoGPT's meta.pkl."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lmlab.data.bpe import (
    LONGEST_WORD,
    BPETokenizer,
    as_bytes,
    as_characters,
    import_tokenizers,
    words,
)
from lmlab.data.tokenizer import (
    SINGLE_BYTES,
    ByteTokenizer,
    CharTokenizer,
    GPT2Tokenizer,
    Tokenizer,
)
from lmlab.errors import LabError
from lmlab.files import read_small

TOKENIZER, ABOUT, META = "tokenizer.json", "tokenizer_config.json", "meta.pkl"
ADDED, SPECIAL = "added_tokens.json", "special_tokens_map.json"
END_OF_TEXT = "<|endoftext|>"
ENDS = ("bos_token", "eos_token")  # one begins where another ended
MOST = 1 << 26  # bytes
# Keys of a tokenizer_config.json that change what ids a text gets, where they are true.
SWITCHES = ("add_prefix_space", "add_bos_token", "add_eos_token", "do_lower_case")
# Parts of a tokenizer.json that no id depends on; "unk_token" is looked at by itself. (Where every
# byte is a token, nothing is unknown.)
NO_MATTER = {"version", "decoder", "vocab", "merges", "unk_token", "fuse_unk", "byte_fallback"}
# Texts of every kind that tokenizers treat by rules of their own.
KINDS_OF_TEXT = (
    "First Citizen:\nWe'll say I'M 12345 3.14 or 10,000!? (They've) x_y==z;\t\r\n\n   a  b\n ",
    "naïve e\u0301 İß ﬁ Ⅷ ½ ² 日本 🙂👍🏽 \u3000\xa0\u2028\x1c\ufeff\u200d\x85\0 "
    "<s> </s> <unk> [UNK] [CLS] <pad>",
    " \n",
    "a" * (2 * LONGEST_WORD),
)


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer.json of one of the lab's tokenizers: the same ids for the same text, but for
    one that spells END_OF_TEXT where there is such an id.

    Raises:
        LabError: for a tokenizer of somebody else's, or without the extra `bpe`.
    """
    merges = []
    if isinstance(tokenizer, BPETokenizer):
        tokens = [tokenizer.token_bytes(i) for i in range(_n_of_text(tokenizer))]
        merges = [(tokens[a], tokens[b]) for a, b in tokenizer.merges]
    elif isinstance(tokenizer, GPT2Tokenizer):
        merges = merges_of(tokenizer.ranks)
    return _made_by_library(tokenizer, [(as_characters(a), as_characters(b)) for a, b in merges])


def tokenizer_config(tokenizer: Tokenizer, block_size: int) -> dict[str, Any]:
    """The tokenizer_config.json beside it."""
    ends = {} if tokenizer.end_of_text is None else dict.fromkeys(ENDS, END_OF_TEXT)
    return {
        **ends,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
    }


def read_tokenizer(folder: Path) -> Tokenizer:
    """The lab's equal of the tokenizer in a folder of Hugging Face's.

    Raises:
        LabError: if there is none, or none that makes the same ids.
    """
    path = folder / TOKENIZER
    is_one_file = path.is_file()
    path = path if is_one_file else folder / "vocab.json"
    try:
        stored = json.loads(read_small(path, MOST)) if is_one_file else _of_two_files(folder)
        tokenizer = _equal(stored)
        _check_beside(folder, stored)
        return tokenizer
    except FileNotFoundError as error:
        raise LabError(
            f"{folder} has no tokenizer that can be read: give it its {TOKENIZER}, or vocab.json "
            f"and merges.txt ({error})"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise LabError(f"{path} is no tokenizer that the lab has an equal of: {reason}") from error


def read_nanogpt_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model of nanoGPT's: characters by its meta.pkl, or GPT-2's.

    Raises:
        LabError: if its vocabulary is another than the model's, or too small for GPT-2's and there
            is no meta.pkl.
    """
    path = folder / META
    if not path.is_file():
        if vocab_size < 50257:
            raise LabError(
                f"from={folder}: a vocabulary of {vocab_size} is not GPT-2's; put the {META} of "
                "its data set beside the checkpoint"
            )
        return GPT2Tokenizer.fit([])
    try:
        with path.open("rb") as file:
            meta = _PlainUnpickler(file).load()
        characters = [meta["itos"][i] for i in range(len(meta["itos"]))]
        if not all(isinstance(character, str) and len(character) == 1 for character in characters):
            raise ValueError("its tokens are no single characters")
        if meta.get("stoi", None) not in (None, {c: i for i, c in enumerate(characters)}):
            raise ValueError("its stoi and itos are of two vocabularies")
        tokenizer = CharTokenizer("".join(characters))
    except pickle.UnpicklingError as error:
        raise LabError(f"{path} is refused: {error}") from error
    except Exception as error:  # a damaged pickle raises anything
        raise LabError(f"{path} is no {META} of nanoGPT's: {error!r}") from error
    if tokenizer.vocab_size != vocab_size:
        raise LabError(
            f"{path} is of another model: it has {tokenizer.vocab_size:,} characters, and the "
            f"checkpoint's embedding {vocab_size:,} rows"
        )
    return tokenizer


class _PlainUnpickler(pickle.Unpickler):
    """Numbers, texts, lists and dicts: whatever asks for a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"loading it would run code in it ({module}.{name})")


# --- out -------------------------------------------------------------------------------------


def _made_by_library(tokenizer: Tokenizer, merges: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The tokenizer.json of one of the lab's tokenizers, with these merges, by the library."""
    library = import_tokenizers(TOKENIZER, instead="")
    special = [END_OF_TEXT] * (tokenizer.vocab_size - _n_of_text(tokenizer))
    if isinstance(tokenizer, CharTokenizer):
        vocab = {character: i for i, character in enumerate([*tokenizer.vocabulary, *special])}
        # A character that is not in it is an error, for <unk> is not in it either.
        made = library.Tokenizer(library.models.WordLevel(vocab, unk_token="<unk>"))
        one = library.Regex(r"[\s\S]")
        made.pre_tokenizer = library.pre_tokenizers.Split(one, behavior="isolated")
        made.decoder = library.decoders.Fuse()
    elif isinstance(tokenizer, (ByteTokenizer, BPETokenizer, GPT2Tokenizer)):
        ids = range(_n_of_text(tokenizer))
        names = [*(as_characters(tokenizer.token_bytes(i)) for i in ids), *special]
        vocab = {name: i for i, name in enumerate(names)}
        made = library.Tokenizer(library.models.BPE(vocab=vocab, merges=merges))
        longest = tokenizer.longest_word if isinstance(tokenizer, BPETokenizer) else None
        made.pre_tokenizer = words(longest)
        made.decoder = library.decoders.ByteLevel()
    else:
        raise LabError(f"the tokenizer {type(tokenizer).__name__} has no form that others read")
    if tokenizer.end_of_text is not None:
        made.add_special_tokens([library.AddedToken(END_OF_TEXT, special=True, normalized=False)])
    stored: dict[str, Any] = json.loads(made.to_str())
    return stored


def _n_of_text(tokenizer: Tokenizer) -> int:
    """How many of its ids stand for text: all but that of the end, which is the last."""
    has_end = tokenizer.end_of_text is not None or isinstance(tokenizer, GPT2Tokenizer)
    return tokenizer.vocab_size - has_end


def merges_of(ranks: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The pair that each token was joined from: what the merges before it leave of its bytes."""
    rank_of = {token: i for i, token in enumerate(ranks)}
    pairs_joined = []
    for rank, token in enumerate(ranks):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [rank_of.get(a + b, rank) for a, b in pairwise(parts)]
            best = min(range(len(pairs)), key=pairs.__getitem__)
            if pairs[best] >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            pairs_joined.append((parts[0], parts[1]))
    return pairs_joined


# --- in --------------------------------------------------------------------------------------


def _equal(stored: Mapping[str, Any]) -> Tokenizer:
    """The lab's tokenizer that makes the ids of a tokenizer.json."""
    library = import_tokenizers(TOKENIZER, instead="")
    kind, vocab = stored["model"].get("type", "BPE"), stored["model"]["vocab"]
    if kind not in ("BPE", "WordLevel"):
        raise ValueError(f"its model is {kind}")
    names = [name for name, _ in sorted(vocab.items(), key=lambda item: item[1])]
    if sorted(vocab.values()) != list(range(len(names))):
        raise ValueError("its ids do not count from 0 on")
    try:
        foreign = library.Tokenizer.from_str(json.dumps(_harmless(stored)))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"the library `tokenizers` refuses it ({error})") from error
    full = json.loads(foreign.to_str())  # with all that a file may leave out
    merges: list[tuple[str, str]] = []
    if kind == "WordLevel":
        ends = names[-1:] == [END_OF_TEXT]
        characters = names[:-1] if ends else names
        if not all(len(name) == 1 for name in characters):
            raise ValueError("its tokens are words")
        tokenizer: Tokenizer = CharTokenizer("".join(characters), ends)
    else:
        pairs = (m.split(" ") if isinstance(m, str) else m for m in stored["model"]["merges"])
        merges = [(left, right) for left, right in pairs]
        tokenizer = _of_bytes(names, merges, _length_of_words(full["pre_tokenizer"]))
        if not merges and full["pre_tokenizer"] is not None:
            full["pre_tokenizer"]["use_regex"] = True  # wherever it cuts, nothing is joined
    for part in _differences(full, _made_by_library(tokenizer, merges)):
        raise ValueError(part)
    for text in _texts(tokenizer):
        if foreign.encode_batch_fast([text])[0].ids != tokenizer.encode(text).tolist():
            raise ValueError(f"it makes other ids of {text[:40]!r}")
    return tokenizer


def _harmless(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without what no id depends on, for the library to read: at parts that are
    damaged it panics, which is more than an exception.
    """
    if _essence(stored.get("normalizer")) is not None:
        raise ValueError(f"its normalizer is {_short(stored['normalizer'])}")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if stored["model"].get(key):
            raise ValueError(f"its model has {key}={_short(stored['model'][key])}")
    after = stored.get("post_processor")
    if after is not None and not _leaves_ids(after):
        raise ValueError(f"its post_processor is {_short(after)}")
    return {**stored, "normalizer": None, "post_processor": None, "decoder": None}


def _leaves_ids(post_processor: Mapping[str, Any]) -> bool:
    """Whether a post-processor gives back the ids that it is given."""
    if post_processor["type"] != "TemplateProcessing":
        return bool(post_processor["type"] == "ByteLevel")
    texts = [piece.get("Sequence", {}).get("id") for piece in post_processor["single"]]
    return post_processor.get("special_tokens") == {} and texts == ["A"]


def _of_bytes(
    names: Sequence[str], merges: Sequence[Sequence[str]], longest_word: int | None
) -> Tokenizer:
    """A byte-level BPE, by the names of its tokens in the order of their ids."""
    ends = names[-1:] == [END_OF_TEXT]
    tokens = [as_bytes(name) for name in (names[:-1] if ends else names)]
    if tokens == SINGLE_BYTES:
        return ByteTokenizer(ends)
    if tokens[:256] == SINGLE_BYTES:
        ids = {token: i for i, token in enumerate(tokens)}
        pairs = [(ids[as_bytes(a)], ids[as_bytes(b)]) for a, b in merges]
        tokenizer = BPETokenizer(pairs, longest_word, ends)
        if [tokenizer.token_bytes(i) for i in range(len(tokens))] == tokens:
            return tokenizer
    elif ends and [as_bytes(a) + as_bytes(b) for a, b in merges] == tokens[256:]:
        return GPT2Tokenizer(tokens)
    raise ValueError("its ids are not in the order of its merges")


def _length_of_words(cut: Any) -> int | None:
    """After how many bytes a word is cut, where a pre-tokenizer is the one of `words`."""
    if isinstance(cut, dict) and cut["type"] == "Sequence" and len(cut["pretokenizers"]) == 2:
        pattern = str(cut["pretokenizers"][1].get("pattern", {}).get("Regex", ""))
        if pattern.startswith(".{1,") and pattern[4:-1].isdecimal():
            return int(pattern[4:-1])
    return None


def _differences(foreign: Mapping[str, Any], equal: Mapping[str, Any]) -> Iterator[str]:
    """What a tokenizer.json does that its equal, as it is written, does not."""
    for key in sorted(equal.keys() - NO_MATTER - {"model", "added_tokens", "post_processor"}):
        if _essence(foreign.get(key)) != _essence(equal[key]):
            yield f"its {key} is {_short(foreign.get(key))}"
    vocab = equal["model"]["vocab"]
    for token in foreign["added_tokens"]:
        if token["content"] != END_OF_TEXT or vocab.get(END_OF_TEXT) != token["id"]:
            yield f"it has the added token {token['content']!r}"
    model = foreign["model"]
    for key in sorted(model.keys() - NO_MATTER):
        if (model[key] or None) != (equal["model"].get(key) or None):
            yield f"its model has {key}={model[key]}"
    if model["type"] == "WordLevel" and model["unk_token"] in vocab:
        yield f"its model has unk_token={model['unk_token']!r}, a token of its own"


def _essence(part: Any) -> Any:
    """A part of a tokenizer.json without what changes no id."""
    if isinstance(part, dict):
        if part.get("type") == "Sequence":
            inside = part.get("pretokenizers") or part.get("normalizers") or []
            if len(inside) < 2:
                return _essence(inside[0]) if inside else None
        if part.get("type") == "Split" and part.get("pattern") == {"String": ""}:
            part = {**part, "pattern": {"Regex": r"[\s\S]"}}  # between any two characters
        return {key: _essence(value) for key, value in part.items() if key != "trim_offsets"}
    return [_essence(value) for value in part] if isinstance(part, list) else part


def _short(part: Any) -> str:
    shown = json.dumps(part, ensure_ascii=False)
    return shown if len(shown) <= 120 else f"{shown[:120]}…"


def _texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Texts to compare ids on: all kinds, and every token alone and beside others."""
    if isinstance(tokenizer, CharTokenizer):
        known = tokenizer.vocabulary
        yield from (known, known[::-1], "".join(2 * character for character in known))
        yield from ("".join(c for c in text if c in known) for text in KINDS_OF_TEXT)
        return
    yield from KINDS_OF_TEXT
    ids = range(_n_of_text(tokenizer))
    tokens = [tokenizer.token_bytes(i).decode(errors="ignore") for i in ids]
    yield from ("".join(tokens), " ".join(reversed(tokens)))


def _check_beside(folder: Path, stored: Mapping[str, Any]) -> None:
    """Whether the files beside a tokenizer.json leave its ids as they are."""
    settings = {**_json(folder / SPECIAL), **_json(folder / ABOUT)}
    for key in SWITCHES:
        if settings.get(key):
            raise ValueError(f"{ABOUT} beside it has {key}={settings[key]!r}")
    vocab = stored["model"]["vocab"]
    for token in (*_json(folder / ADDED), *_tokens_named(settings)):
        content = token["content"] if isinstance(token, dict) else token
        if content is not None and (content != END_OF_TEXT or content not in vocab):
            raise ValueError(f"{ABOUT}, {SPECIAL} or {ADDED} beside it has the token {content!r}")


def _tokens_named(settings: Mapping[str, Any]) -> Iterator[Any]:
    """The tokens that a tokenizer_config.json adds where the vocabulary lacks them."""
    for key, value in settings.items():
        if key.endswith("_token") and not isinstance(value, bool):
            yield value
        elif key.endswith("special_tokens") or key == "added_tokens_decoder":
            yield from value.values() if isinstance(value, dict) else value or []


def _json(path: Path) -> dict[str, Any]:
    """An object in a file that need not be there."""
    value = json.loads(read_small(path, MOST)) if path.is_file() else {}
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} beside it is no JSON object")
    return value


def _of_two_files(folder: Path) -> dict[str, Any]:
    """GPT-2's own two files, vocab.json and merges.txt, as a tokenizer.json."""
    vocab = json.loads(read_small(folder / "vocab.json", MOST))
    lines = read_small(folder / "merges.txt", MOST).decode().split("\n")
    merges = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "pre_tokenizer": {**level, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }
