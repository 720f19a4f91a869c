"""What somebody asks of a sweep in the tab, and the sections of the report that answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from lmlab.errors import LabError
from lmlab.sweeps.board.laws import Laws
from lmlab.sweeps.board.rows import cut
from lmlab.sweeps.board.scan import SeenSweep
from lmlab.sweeps.compare.equal import parse_at
from lmlab.sweeps.kept import FIT, Kept
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.report.questions import Asked
from lmlab.sweeps.report.race_sections import race_sections
from lmlab.sweeps.report.sections import Section
from lmlab.sweeps.table.settings import Table
from lmlab.sweeps.table.words import name_of

MOST_ASKED = 8  # points of training, or losses


class Question(NamedTuple):
    """As it stands in an address."""

    baseline: str = ""  # a setting, by its name
    at: str = ""  # as --at takes it, several with commas between them
    to: str = ""  # as --to takes it, several too
    fit: str = ""  # anything: a law

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> Question:
        return cls(**{key: asked.get(key, "") for key in cls._fields})


@dataclass(frozen=True)
class Replies:
    """What a sweep answers to a question."""

    sections: Sequence[Section]  # the leaderboard first
    remarks: Sequence[str] = ()  # on what was asked and is of no use, and what would be
    law: str = ""  # "possible", "fitting"; nothing where there is one, or can be none


def answered(sweep: SeenSweep, table: Table, question: Question, laws: Laws) -> Replies:
    """What the kept report was asked is answered, too."""
    before = frozenset[str]()
    with suppress(LabError):
        before = Kept.read(sweep.path).asked
    asked = Asked(table)
    with suppress(LabError, ValueError):  # it may have no answer any more
        asked = Asked.from_words(table, before - {FIT})
    asked, remarks = _more(asked, question)
    try:
        sections = list(asked.answers())
    except LabError as error:
        remarks.append(str(error))
        sections = list(Asked(table, asked.baseline).answers())
    state = laws.state_of(sweep, table, is_wanted=bool(question.fit) or FIT in before)
    remarks += [state.problem] if state.problem and question.fit else []
    board = leaderboard(table, folder=sweep.path)
    answers = [board, *race_sections(sweep.path), *sections, *state.sections]
    return Replies(answers, list(map(cut, remarks)), state.what)


def _more(asked: Asked, question: Question) -> tuple[Asked, list[str]]:
    """What is asked in the tab, beside what was asked before."""
    remarks = []
    at, to, baseline = list(asked.at), list(asked.to), asked.baseline
    for text in _words(question.at):
        try:
            at.append(parse_at(text))
        except LabError as error:
            remarks.append(str(error).removeprefix("--"))
    for text in _words(question.to):
        loss = _number(text)
        if math.isfinite(loss):
            to.append(loss)
        else:
            remarks.append(f"to {text}: a loss, such as 1.88")
    if question.baseline:
        # Of two that read alike it is the better one.
        settings = reversed(asked.table.settings.index)
        named = {cut(name_of(asked.table, i)): int(i) for i in settings}
        baseline = named.get(question.baseline)
        if baseline is None:
            name = cut(question.baseline, 200)
            remarks.append(f"no setting is called {name}: the best is the baseline")
    at, to = list(dict.fromkeys(at)), list(dict.fromkeys(to))  # each once
    return replace(asked, baseline=baseline, at=at, to=to), remarks


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()][:MOST_ASKED]


def _number(text: str) -> float:
    """As a config has it; NaN for what is none."""
    with suppress(ValueError):
        return float(text) if text.isascii() and "_" not in text else math.nan
    return math.nan
