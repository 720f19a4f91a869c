"""A tokenizer.json is taken where it makes the lab's ids, else refused by its part."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmlab.data.bpe import BPETokenizer
from lmlab.data.tokenizer import ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer
from lmlab.errors import LabError
from lmlab.exchange import tokenizer_files

library = pytest.importorskip("tokenizers")
TEXT = "The king's 12,345 horses; \tnaïve  日本 🙂\r\n\n they'll  come home. " * 40


def _of_gpt2(learnt: BPETokenizer) -> GPT2Tokenizer:
    """In GPT-2's form, whose ids begin with the bytes in the order in which they are printed."""
    tokens = [learnt.token_bytes(i) for i in range(learnt.vocab_size)]
    printed = sorted(tokens[:256], key=lambda token: (token[0] not in range(33, 127), token))
    return GPT2Tokenizer([*printed, *tokens[256:]])


LEARNT = BPETokenizer.fit([TEXT], 290)
TOKENIZERS: dict[str, Tokenizer] = {
    "char": CharTokenizer.fit([TEXT]),
    "byte": ByteTokenizer(),
    "bpe": LEARNT,
    "bpe, uncut": BPETokenizer(LEARNT.merges, None),
    "gpt2": _of_gpt2(LEARNT),
}
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
END = {"content": "<|endoftext|>", "id": 290, "special": True, **PLAIN}
SEQUENCE_A, SEQUENCE_B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [SEQUENCE_A],
    "pair": [SEQUENCE_A, SEQUENCE_B],
    "special_tokens": {},
}
BEGIN = {"SpecialToken": {"id": "a", "type_id": 0}}
WITH_BEGIN = {
    **TEMPLATE,
    "single": [BEGIN, SEQUENCE_A],
    "special_tokens": {"a": {"id": "a", "ids": [1], "tokens": ["a"]}},
}
DIGITS = {"type": "Digits", "individual_digits": True}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
CUT = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
PADDED = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
PADDED |= {"strategy": {"Fixed": 999}, "pad_to_multiple_of": None}

Stored = dict[str, Any]


def parts(**changes: Any) -> Callable[[Stored], Stored]:
    return lambda stored: {**stored, **changes}


def model(**changes: Any) -> Callable[[Stored], Stored]:
    return lambda stored: {**stored, "model": {**stored["model"], **changes}}


def cut_before(first: Any) -> Callable[[Stored], Stored]:
    def change(stored: Stored) -> Stored:
        both = {"type": "Sequence", "pretokenizers": [first, stored["pre_tokenizer"]]}
        return {**stored, "pre_tokenizer": both}

    return change


# What is changed, and what a refusal names (None: no id changes, so it is taken).
CHANGES: dict[str, tuple[Callable[[Stored], Stored], str | None]] = {
    "nothing": (parts(), None),
    "a space put before": (parts(pre_tokenizer={**LEVEL, "add_prefix_space": True}), "prefix_spa"),
    "no words": (parts(pre_tokenizer=None), "pre_tokenizer is null"),
    "spaces removed": (parts(pre_tokenizer=SPLIT), "its pre_tokenizer is"),
    "digits": (cut_before(DIGITS), "its pre_tokenizer is"),
    "NFC": (parts(normalizer={"type": "NFC"}), 'its normalizer is {"type": "NFC"}'),
    "lower case": (parts(normalizer={"type": "Lowercase"}), "its normalizer is"),
    "no normalizer": (parts(normalizer={"type": "Sequence", "normalizers": []}), None),
    "a token that begins": (parts(post_processor=WITH_BEGIN), "its post_processor is"),
    "all twice": (
        parts(post_processor={**TEMPLATE, "single": [SEQUENCE_A] * 2}),
        "post_processor is",
    ),
    # At which the library panics.
    "a template of no token": (parts(post_processor={**TEMPLATE, "single": [BEGIN]}), "is {"),
    "no charsmap": (
        parts(normalizer={"type": "Precompiled", "precompiled_charsmap": ""}),
        "normalizer is",
    ),
    "a template of nothing": (parts(post_processor=TEMPLATE), None),
    "offsets": (parts(post_processor={**LEVEL, "add_prefix_space": True}), None),
    "a token added": (parts(added_tokens=[{**END, "content": "<s>"}]), "added token '<s>'"),
    "a token that it has": (
        lambda s: parts(added_tokens=[{**END, "content": "e", "id": s["model"]["vocab"]["e"]}])(s),
        "added token 'e'",
    ),
    "cut off": (parts(truncation=CUT), "its truncation is"),
    "padded": (parts(padding=PADDED), "its padding is"),
    "of tomorrow": (parts(pre_tokenizer={"type": "Tomorrow"}), "`tokenizers` refuses it"),
    "no model": (lambda stored: {"version": "1.0"}, "it has no 'model'"),
    "ids of text": (
        lambda s: model(vocab={name: str(i) for name, i in s["model"]["vocab"].items()})(s),
        "its ids do not count from 0",
    ),
    "words of a piece": (model(type="WordPiece"), "its model is WordPiece"),
}
OF_BYTES = {
    "dropout": (model(dropout=0.1), "dropout=0.1"),
    "no dropout": (model(dropout=0.0), None),
    "whole words first": (model(ignore_merges=True), "ignore_merges=True"),
    "an end of words": (model(end_of_word_suffix="</w>"), 'end_of_word_suffix="</w>"'),
    # At which the library panics.
    "a prefix within words": (
        model(continuing_subword_prefix="x" * 3000),
        "continuing_subword_prefix=",
    ),
    "a merge of three": (model(merges=["a b c"]), "`tokenizers` refuses it"),
    "a merge of nothing": (model(merges=[["a", "qqq"]]), "`tokenizers` refuses it"),
}
OF_CHARACTERS = {
    "one for all unknown": (model(unk_token="e"), "unk_token='e'"),
    "cut everywhere": (
        parts(pre_tokenizer={**SPLIT, "pattern": {"String": ""}, "behavior": "Isolated"}),
        None,
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_file_that_makes_other_ids_is_refused_by_its_part(tmp_path, name):
    mine, path = TOKENIZERS[name], tmp_path / "tokenizer.json"
    for what, (change, told) in (CHANGES | (OF_CHARACTERS if name == "char" else OF_BYTES)).items():
        changed = change(tokenizer_files.tokenizer_json(mine))
        path.write_text(json.dumps(changed))
        if told is None:
            assert tokenizer_files.read_tokenizer(tmp_path).stored() == mine.stored(), what
            theirs = library.Tokenizer.from_file(str(path))
            assert theirs.encode(TEXT).ids == mine.encode(TEXT).tolist(), what
            continue
        with pytest.raises(LabError) as refusal:
            tokenizer_files.read_tokenizer(tmp_path)
        assert told in str(refusal.value), what
        assert "\n" not in str(refusal.value), what


def test_words_of_others_are_not_cut(tmp_path):
    stored = tokenizer_files.tokenizer_json(LEARNT)
    (tmp_path / "tokenizer.json").write_text(json.dumps({**stored, "pre_tokenizer": LEVEL}))
    text = "the" * 2000
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
    assert (
        tokenizer_files.read_tokenizer(tmp_path).encode(text).tolist()
        == theirs
        != LEARNT.encode(text).tolist()
    )
    ours = library.Tokenizer.from_str(json.dumps(stored)).encode(text).ids
    assert LEARNT.encode(text).tolist() == ours


def test_bytes_may_be_cut_anywhere(tmp_path):
    stored = tokenizer_files.tokenizer_json(ByteTokenizer())
    level = {**LEVEL, "use_regex": False}  # as the lab once wrote them
    (tmp_path / "tokenizer.json").write_text(json.dumps({**stored, "pre_tokenizer": level}))
    assert isinstance(tokenizer_files.read_tokenizer(tmp_path), ByteTokenizer)


@pytest.mark.parametrize("two_files", [False, True])
def test_the_files_beside_it_count_too(tmp_path, two_files):
    mine = TOKENIZERS["gpt2"]
    stored = tokenizer_files.tokenizer_json(mine)
    if two_files:
        (tmp_path / "vocab.json").write_text(json.dumps(stored["model"]["vocab"]))
        lines = [" ".join(pair) for pair in stored["model"]["merges"]]
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))
    else:
        stored = {**stored, "added_tokens": [END]}
        (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    about = tmp_path / "tokenizer_config.json"
    gpt2s = {"add_prefix_space": False, "add_bos_token": False, "bos_token": "<|endoftext|>"}
    gpt2s |= {"added_tokens_decoder": {"290": END}, "pad_token": None, "model_max_length": 1024}
    about.write_text(json.dumps(gpt2s))
    assert tokenizer_files.read_tokenizer(tmp_path).stored() == mine.stored()
    for change, told in (
        ({"add_prefix_space": True}, "add_prefix_space=True"),
        ({"add_bos_token": True}, "add_bos_token=True"),
        ({"pad_token": "[PAD]"}, "the token '[PAD]'"),
        ({"bos_token": {**END, "content": "<s>"}}, "the token '<s>'"),
        ({"additional_special_tokens": ["<a>"]}, "the token '<a>'"),
        ({"extra_special_tokens": {"x": "<x>"}}, "the token '<x>'"),
        ({"added_tokens_decoder": {"290": END, "291": {**END, "content": "<b>"}}}, "'<b>'"),
    ):
        about.write_text(json.dumps({**gpt2s, **change}))
        with pytest.raises(LabError) as refusal:
            tokenizer_files.read_tokenizer(tmp_path)
        assert told in str(refusal.value)
    about.write_text(json.dumps(gpt2s))
    (tmp_path / "added_tokens.json").write_text('{"<c>": 291}')
    with pytest.raises(LabError, match="the token '<c>'"):
        tokenizer_files.read_tokenizer(tmp_path)
    (tmp_path / "added_tokens.json").write_text("[]")
    with pytest.raises(LabError, match=r"added_tokens.json beside it is no JSON object"):
        tokenizer_files.read_tokenizer(tmp_path)


def test_what_transformers_writes_of_gpt2_is_read(tmp_path):
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.append(str(Path(sys.prefix) / "transformers"))
    if not os.environ.get("CI"):
        pytest.importorskip("transformers")
    import transformers

    mine = TOKENIZERS["gpt2"]
    model = tokenizer_files.tokenizer_json(mine)["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    theirs = transformers.GPT2Tokenizer(vocab=model["vocab"], merges=merges)
    theirs.save_pretrained(tmp_path)
    read = tokenizer_files.read_tokenizer(tmp_path)
    assert read.stored() == mine.stored()
    assert read.encode(TEXT).tolist() == theirs(TEXT).input_ids
    theirs.add_tokens(["<new>"])
    theirs.save_pretrained(tmp_path)
    with pytest.raises(LabError, match="<new>"):
        tokenizer_files.read_tokenizer(tmp_path)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        LabError, match=r"tokenizer.json needs the extra `bpe`: pip install"
    ) as told:
        tokenizer_files.tokenizer_json(ByteTokenizer())
    assert "need nothing" not in str(told.value)
