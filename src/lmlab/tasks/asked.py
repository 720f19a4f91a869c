"""Tasks by name, asked of a model, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from lmlab.config import build
from lmlab.data.ids import Ids
from lmlab.data.tokenizer import Tokenizer
from lmlab.errors import LabError
from lmlab.tasks.item_by_item import Difference, compare
from lmlab.tasks.items import Item, Task
from lmlab.tasks.likelihood import Answers, ask
from lmlab.tasks.scores import Score, scores

MOST_TOKENS = 1 << 20  # of val that questions are made of: its beginning
SHOWN = {  # by score: the heading of its column, and how it is written
    "accuracy": ("accuracy", ".3f"),
    "accuracy_per_character": ("per character", ".3f"),
    "margin": ("margin, nats", ".2f"),
    "bits_per_byte": ("bits per byte", ".3f"),
}

Items = Mapping[str, Sequence[Item]]  # by task


def make_tasks(nodes: Mapping[str, dict[str, Any]]) -> dict[str, Task]:
    """The tasks of a config, by name.

    Raises:
        LabError: naming the one that cannot be made.
    """
    tasks = {}
    for name, node in nodes.items():
        try:
            tasks[name] = build.part(node, key := f"tasks.{name}", Task)
        except LabError as error:
            about = str(error)
            raise LabError(about if about.startswith(key) else f"{key}: {about}") from error
    return tasks


def items_of(tasks: Mapping[str, Task], ids: Ids, tokenizer: Tokenizer) -> Items:
    """The items of each task; `ids` are the val split's, of which the beginning is looked at.

    Raises:
        LabError: naming the task whose file is broken, or which makes no items.
    """
    val = documents(ids[:MOST_TOKENS].whole().numpy(), tokenizer) if tasks else []
    items = {}
    for name, task in tasks.items():
        try:
            items[name] = task.items(val)
        except LabError as error:
            raise LabError(f"tasks.{name}: {error}") from error
    return items


def documents(ids: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """The texts that ids (n,) stand for: one, unless there is an end-of-text id between several."""
    if tokenizer.end_of_text is None:
        return [tokenizer.decode(ids.tolist())]
    ends = np.flatnonzero(ids == tokenizer.end_of_text)
    return [tokenizer.decode(part.tolist()) for part in np.split(ids, ends)]


def answers_to(
    items: Items, model: nn.Module, tokenizer: Tokenizer, stride: int | None
) -> dict[str, Answers]:
    """What a model says to the items of each task; see `likelihood.ask`."""
    return {
        name: ask(model, tokenizer, some, stride, f"tasks.{name}") for name, some in items.items()
    }


def metrics_of(answers: Mapping[str, Answers]) -> dict[str, float]:
    """The scores of each task that has items, by the names of curves: tasks/<task>/<score>."""
    return {
        f"tasks/{name}/{score}": one.value
        for name, given in answers.items()
        if given.is_asked.any()
        for score, one in scores(given).items()
    }


def lines(items: Items, answers: Mapping[str, Answers]) -> Iterator[str]:
    """The scores of each task, a line each; and how many items could not be asked."""
    rows = [["task", "items", "chance", *(heading for heading, _ in SHOWN.values())]]
    for name, given in answers.items():
        if not given.is_asked.any():
            continue
        asked = [items[name][i] for i in np.flatnonzero(given.is_asked).tolist()]
        chance = sum(item.chance for item in asked) / len(asked)
        figures = scores(given)
        cells = [_score(figures.get(score), form) for score, (_, form) in SHOWN.items()]
        rows.append([name, f"{len(asked):,}", f"{chance:.2f}", *cells])
    if len(rows) > 1:
        yield from _aligned(rows)
    for name, given in answers.items():
        if n := int((~given.is_asked).sum()):
            yield f"{name}: {n:,} items left out, with characters that the tokenizer does not know"
        if not len(items[name]):
            yield f"{name}: the text has no such places, so there is nothing to ask"


def _score(score: Score | None, form: str) -> str:
    if score is None:
        return "-"
    return f"{score.value:{form}} ({score.low:{form}} {score.high:{form}})"


def lines_of_differences(
    answers: Mapping[str, Answers], others: Mapping[str, Answers]
) -> Iterator[str]:
    """How much better or worse these answers are than the others, a line for each score."""
    rows = [["task", "score", "items", "difference", "better", "worse", "p"]]
    for name, given in answers.items():
        for score, difference in compare(given, others[name]).items():
            rows.append(_row(name, score, difference))
    yield from _aligned(rows)


def _row(name: str, score: str, difference: Difference) -> list[str]:
    heading, form = SHOWN[score]
    return [
        name,
        heading,
        f"{difference.n_items:,}",
        f"{difference.value:+{form}} ({difference.low:+{form}} {difference.high:+{form}})",
        "" if difference.better is None else f"{difference.better:,}",
        "" if difference.worse is None else f"{difference.worse:,}",
        "" if difference.p is None else f"{difference.p:.2g}",
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
