"""Scaling laws for the tab. One takes its time, so it is fitted in a thread, and kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmlab.errors import LabError
from lmlab.sweeps.board.scan import SeenSweep

if TYPE_CHECKING:  # they import pandas
    from lmlab.sweeps.report.sections import Section
    from lmlab.sweeps.table.settings import Table

MOST_KEPT = 8
REST = 5  # with news a law is fitted again after so many times as long as the last took


@dataclass(frozen=True)
class State:
    """How it stands with the law of a sweep."""

    what: str = ""  # "possible", "fitting"; nothing where there is one, or can be none
    sections: Sequence[Section] = ()
    problem: str = ""  # why there can be none


@dataclass
class Fit:
    """A law in the making, or made."""

    version: str = ""  # of the sweep
    is_at_work: bool = False
    sections: Sequence[Section] = ()
    problem: str = ""
    ended: float = 0.0  # on the monotonic clock
    cost: float = 0.0  # seconds


class Laws:
    """By the name of the sweep."""

    def __init__(self) -> None:
        self._fits: dict[str, Fit] = {}
        self._one_at_a_time = threading.Lock()

    def version_of(self, sweep: SeenSweep) -> str:
        """Changes with the law."""
        fit = self._fits.get(sweep.name)
        return "" if fit is None else f"{fit.is_at_work} {fit.ended}"

    def state_of(self, sweep: SeenSweep, table: Table, is_wanted: bool) -> State:
        """The law as far as there is one; where it `is_wanted`, a fit begins."""
        from lmlab.sweeps.compare.scaling import check, points_of

        try:
            check(points_of(table)[0])
        except LabError as error:
            return State(problem=str(error).removeprefix("--fit: "))
        fit = self._fits.get(sweep.name)
        if fit is None and not is_wanted:
            return State("possible")
        if fit is None or self._is_stale(fit, sweep):
            fit = self._begin(sweep, table, fit or Fit())
        if fit.is_at_work and not fit.sections:
            return State("fitting")
        return State("", fit.sections, fit.problem)

    def _is_stale(self, fit: Fit, sweep: SeenSweep) -> bool:
        rested = time.monotonic() - fit.ended > REST * fit.cost
        return fit.version != sweep.version and rested and not fit.is_at_work

    def _begin(self, sweep: SeenSweep, table: Table, fit: Fit) -> Fit:
        fit.version, fit.is_at_work = sweep.version, True
        self._fits[sweep.name] = fit
        for oldest in list(self._fits)[:-MOST_KEPT]:
            del self._fits[oldest]
        work = threading.Thread(target=self._fit, args=(fit, table), name="law", daemon=True)
        work.start()
        return fit

    def _fit(self, fit: Fit, table: Table) -> None:
        from lmlab.sweeps.compare.scaling import scaling_of
        from lmlab.sweeps.report.law_sections import law_sections

        with self._one_at_a_time:
            began = time.monotonic()
            try:
                fit.sections, fit.problem = list(law_sections(scaling_of(table))), ""
            except (LabError, ValueError, ArithmeticError) as error:  # of runs nobody thought of
                fit.sections, fit.problem = (), f"the law cannot be fitted: {error}"
            finally:
                fit.ended = time.monotonic()
                fit.cost = fit.ended - began
                fit.is_at_work = False
