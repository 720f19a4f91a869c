"""What is asked of single runs: one, or a few side by side, and what they showed by step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmlab.errors import LabError
from lmlab.sweeps.board.answering import Answers, RefusedError, as_json
from lmlab.sweeps.board.scan import Scan, SeenRun

if TYPE_CHECKING:
    from lmlab.sweeps.board.single.shown import Shown
    from lmlab.sweeps.board.single.side import Chosen

MOST_SHOWN = 40  # runs of which it is remembered where their pictures stand
Asked = Mapping[str, str]


class OfRuns:
    """A method for each route; none waits for the answer about a whole sweep."""

    def __init__(self, scan: Scan):
        self._scan = scan
        self._answers = Answers()
        self._shown: dict[str, Shown] = {}
        self._remembering = threading.Lock()

    def run(self, asked: Asked) -> bytes:
        """Everything about the run `name`."""
        from lmlab.sweeps.board.single.one_run import about_run, news_of

        run, runs = self._run(asked.get("name", "")), self._scan.runs()
        return self._answers.made(
            ("run", run.name), news_of(run, runs), lambda: about_run(run, runs), rest=0
        )

    def side(self, asked: Asked) -> bytes:
        """What differs between those in the list `name`."""
        from lmlab.sweeps.board.single.side import about_side

        return self._of_chosen("side", asked, about_side)

    def curves(self, asked: Asked) -> bytes:
        """Their losses while training, in one figure."""
        from lmlab.sweeps.board.single.side import curves_of

        return self._of_chosen("curves", asked, curves_of)

    def kept(self, asked: Asked) -> bytes:
        """What those in the list `name` wrote and drew at one `step`, or the last that all have."""
        from lmlab.sweeps.board.single.side import SETTING

        runs = [self._scan.run(word.removeprefix(SETTING)) for word in self._words(asked)]
        shown = [None if run is None else self._shown_by(run) for run in runs]
        for one in filter(None, shown):
            one.look()
        steps_of = [one.steps() if one else set() for one in shown]
        of_all = set.intersection(*filter(None, steps_of)) if any(steps_of) else set()
        steps = sorted(of_all or set().union(*steps_of))
        step = _whole(asked.get("step"), default=steps[-1] if steps else 0)
        nothing: dict[str, Any] = {"texts": {}, "pictures": []}
        content = {
            "steps": steps,
            "step": step,
            "is_whole": all(one.is_whole for one in shown if one),
            "columns": [one.at(step) if one else nothing for one in shown],
        }
        return as_json(content)

    def picture(self, asked: Asked) -> bytes:
        """The PNG that the run `name` drew under a `tag` at a `step`."""
        shown = self._shown_by(self._run(asked.get("name", "")))
        shown.look()
        picture = shown.picture(asked.get("tag", ""), _whole(asked.get("step"), default=-1))
        if picture is None:
            raise RefusedError(404, "there is no such picture")
        return picture

    def _run(self, name: str) -> SeenRun:
        run = self._scan.run(name)
        if run is None:
            raise RefusedError(404, "there is no such run any more")
        return run

    def _words(self, asked: Asked) -> list[str]:
        from lmlab.sweeps.board.single.side import words_in

        try:
            return words_in(asked.get("name", ""))
        except LabError as error:
            raise RefusedError(400, str(error)) from error

    def _of_chosen(
        self, kind: str, asked: Asked, about: Callable[[Sequence[Chosen]], dict[str, Any]]
    ) -> bytes:
        from lmlab.sweeps.board.single.side import SETTING, choose

        words, sweeps = self._words(asked), self._scan.sweeps()
        version: list[Any] = []
        for word in words:
            run = self._scan.run(word.removeprefix(SETTING))
            version.append(run and (run.stamp, run.status, run.problem))
            if run and word.startswith(SETTING) and run.sweep in sweeps:
                version.append(sweeps[run.sweep].version)
        return self._answers.made(
            (kind, *words), repr(version), lambda: about(choose(words, self._scan.run, sweeps))
        )

    def _shown_by(self, run: SeenRun) -> Shown:
        from lmlab.sweeps.board.single.shown import Shown

        with self._remembering:
            shown = self._shown.pop(run.name, None) or Shown(run.path, self._scan.folder)
            self._shown[run.name] = shown
            for oldest in list(self._shown)[:-MOST_SHOWN]:
                del self._shown[oldest]
            return shown


def _whole(text: str | None, default: int) -> int:
    """A step as it stands in an address."""
    return int(text) if text and text.isdecimal() and len(text) < 20 else default
