"""Tasks whose items stand in files: one JSON object a line."""

from __future__ import annotations

import glob
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmlab.bounds import Text
from lmlab.errors import LabError
from lmlab.files import path_typed
from lmlab.tasks.items import Item, Task


class OfFile(Task):
    """One item for each line of a file."""

    def __init__(self, path: Text):
        """`path` is a file, or a pattern (`blimp/*.jsonl`) whose files follow each other by name.

        Raises:
            LabError: if there is none.
        """
        self.files = _files(path)

    def items(self, val: Sequence[str]) -> list[Item]:
        items = []
        for file in self.files:
            for n, record in _records(file):
                try:
                    items.append(self.item(record))
                except (KeyError, TypeError, ValueError) as error:
                    reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                    raise LabError(f"{file}, line {n}: {reason}") from error
        return items

    @abstractmethod
    def item(self, record: dict[str, Any]) -> Item:
        """The item of a line.

        Raises:
            KeyError: if the line lacks a field.
            ValueError, TypeError: if a field has no value that can be asked.
        """


class MinimalPairs(OfFile):
    """Two sentences, of which one is as people say it: `sentence_good` and `sentence_bad`, as in
    BLiMP (Warstadt et al. 2020, arXiv 1912.00582)."""

    def item(self, record: dict[str, Any]) -> Item:
        return Item("", (_text(record, "sentence_good"), _text(record, "sentence_bad")))


class MultipleChoice(OfFile):
    """A `context`, `choices` of what follows it, and which of them does: `answer`, counted from 0.

    `delimiter` stands between the two, and is asked as the beginning of each choice.
    """

    def __init__(self, path: Text, delimiter: str = " "):
        super().__init__(path)
        self.delimiter = delimiter

    def item(self, record: dict[str, Any]) -> Item:
        context, choices, answer = record["context"], record["choices"], record["answer"]
        if not isinstance(context, str):
            raise ValueError(f"context={context!r:.80} is no text")
        if not isinstance(choices, list) or len(choices) < 2:
            raise ValueError(f"choices={choices!r:.80} are no list of two texts or more")
        if not all(isinstance(choice, str) and choice for choice in choices):
            raise ValueError(f"choices={choices!r:.80} are not all texts")
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise ValueError(f"answer={answer!r:.80} is none of 0 to {len(choices) - 1}")
        return Item(context, tuple(self.delimiter + choice for choice in choices), answer)


class LastWord(OfFile):
    """Would the model write the last word of a `text`? As in LAMBADA (Paperno et al. 2016, arXiv
    1606.06031): each token of it has to be the likeliest."""

    def item(self, record: dict[str, Any]) -> Item:
        text = _text(record, "text").rstrip()
        context, space, word = text.rpartition(" ")
        if not context.strip() or not word:
            raise ValueError(f"text={text!r:.80} has no last word behind others")
        return Item(context, (space + word,))


def _files(path: str) -> list[Path]:
    typed = path_typed(path, "path")
    files = [typed] if typed.is_file() else sorted(map(Path, glob.glob(str(typed))))  # noqa: PTH207
    if not files:
        raise LabError(f"path={path}: no such file, and none matches it as a pattern")
    for file in files:
        if not file.is_file():
            raise LabError(f"path={path}: {file} is no file")
    return files


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's number, and what stands there; empty lines are none."""
    try:
        with file.open("rb") as lines:
            for n, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                record = json.loads(line.decode())
                if not isinstance(record, dict):
                    raise LabError(f"{file}, line {n}: not a JSON object")
                yield n, record
    except ValueError as error:  # json's and the decoder's
        raise LabError(f"{file}, line {n}: {error}") from error
    except OSError as error:
        raise LabError(f"{file} cannot be read: {error.strerror}") from error


def _text(record: dict[str, Any], field: str) -> str:
    text = record[field]
    if not isinstance(text, str) or not text:
        raise ValueError(f"{field}={text!r:.80} is no text")
    return text
