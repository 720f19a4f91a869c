"""Items that stand in files, and what is said of broken ones."""

import json

import pytest

from lmlab.errors import LabError
from lmlab.tasks.from_files import LastWord, MinimalPairs, MultipleChoice
from lmlab.tasks.items import Item

PAIR = {"sentence_good": "It is.", "sentence_bad": "It are.", "UID": "agreement"}
QUESTION = {"context": "2 + 2 =", "choices": ["3", "4", "5"], "answer": 1}


@pytest.fixture
def written(tmp_path):
    def write(*records, name="items.jsonl"):
        lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(path)

    return write


def test_lines_become_items(written):
    assert MinimalPairs(written(PAIR, "", PAIR)).items([]) == 2 * [Item("", ("It is.", "It are."))]
    assert MultipleChoice(written(QUESTION)).items([]) == [
        Item("2 + 2 =", (" 3", " 4", " 5"), answer=1)
    ]
    assert MultipleChoice(written(QUESTION), delimiter="").items([])[0].choices == ("3", "4", "5")
    assert LastWord(written({"text": "He said “yes” "})).items([]) == [Item("He said", (" “yes”",))]


def test_a_pattern_names_several_files_in_their_order(written, tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        written({**PAIR, "sentence_good": name}, name=name)
    items = MinimalPairs(str(tmp_path / "*.jsonl")).items([])
    assert [item.choices[0] for item in items] == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("kind", "record", "reason"),
    [
        (MinimalPairs, {"sentence_good": "It is."}, "it lacks 'sentence_bad'"),
        (MinimalPairs, {**PAIR, "sentence_bad": 3}, "sentence_bad=3 is no text"),
        (MinimalPairs, {**PAIR, "sentence_bad": ""}, "sentence_bad='' is no text"),
        (MinimalPairs, "[]", "not a JSON object"),
        (MinimalPairs, "{", "Expecting property name"),
        (MultipleChoice, {**QUESTION, "answer": 3}, "answer=3 is none of 0 to 2"),
        (MultipleChoice, {**QUESTION, "answer": True}, "answer=True is none of 0 to 2"),
        (MultipleChoice, {**QUESTION, "choices": ["4"]}, "choices="),
        (MultipleChoice, {**QUESTION, "choices": ["4", 5]}, "are not all texts"),
        (MultipleChoice, {**QUESTION, "context": None}, "context=None is no text"),
        (LastWord, {"text": "word"}, "has no last word behind others"),
    ],
)
def test_a_broken_line_is_named(written, kind, record, reason):
    good = {MinimalPairs: PAIR, MultipleChoice: QUESTION, LastWord: {"text": "a b"}}[kind]
    path = written(good, record)
    with pytest.raises(LabError) as error:
        kind(path).items([])
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert reason in str(error.value)


def test_bytes_that_are_no_utf_8_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "a b"}\n{"text": "\xff b"}\n')
    with pytest.raises(LabError, match="line 2: 'utf-8' codec can't decode byte 0xff"):
        LastWord(str(path)).items([])


def test_a_path_that_is_not_there_is_refused_at_once(tmp_path):
    with pytest.raises(LabError, match="no such file, and none matches it as a pattern"):
        MinimalPairs(str(tmp_path / "*.jsonl"))
    with pytest.raises(LabError, match="is no file"):
        MinimalPairs(str(tmp_path))
