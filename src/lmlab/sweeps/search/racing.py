"""What a grid sweep does with `sweep.race`: each setting gets the first seeds, and then one after
the other, until it is worse than the best; the one that is left is measured on fresh seeds.

All of it follows from the runs that are there, by `compare.race`: a race that was killed goes on
with what it had decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.config.schema import Race, Train
from lmlab.console import say
from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.compare.race import Standings, race
from lmlab.sweeps.journal.journal import FAILED, Result
from lmlab.sweeps.launch.launching import run_jobs
from lmlab.sweeps.launch.pool import pool_of
from lmlab.sweeps.launch.preparing import check_jobs, make_sweep
from lmlab.sweeps.launch.progress import Progress
from lmlab.sweeps.search.candidates import Placed, by_setting, end, is_last, placed
from lmlab.sweeps.table.raced import Raced, Row
from lmlab.sweeps.table.reading import SEED

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher
    from omegaconf import DictConfig

    from lmlab.sweeps.launch.composing import RememberingLoader


def race_grid(
    config: DictConfig,
    loader: RememberingLoader,
    launcher: Launcher,
    arguments: Sequence[str],
    jobs: Sequence[list[str]],
) -> list[Result]:
    """Train the jobs of a grid as far as they decide something; the results of what was trained.

    Raises:
        LabError: if they cannot race, before anything is made; if a run failed, once all is done.
    """
    check_jobs(config, loader, arguments, jobs)
    folder = Path(config.hydra.sweep.dir)
    settings = by_setting(placed(config, loader, folder, jobs, arguments))
    seeds_of_race(config, settings)
    return hold_race(config, loader, launcher, arguments, make_sweep(config), settings)


def hold_race(
    config: DictConfig,
    loader: RememberingLoader,
    launcher: Launcher,
    arguments: Sequence[str],
    folder: Path,
    settings: Mapping[str, Sequence[Placed]],
    before: Sequence[Result] = (),
) -> list[Result]:
    """Train the runs of settings as far as they decide something; the results of what was trained,
    behind those of what was trained `before`.

    Raises:
        LabError: if they cannot race, or a run failed, once all is done.
    """
    asked, seeds = Race.model_validate(dict(config.sweep.race)), seeds_of_race(config, settings)
    assert asked.first is not None
    fresh = [max(seeds) + 1 + i for i in range(asked.first)]
    entered = list(settings.values())

    def on_fresh_seeds(setting: int) -> list[Racer]:
        words = entered[setting][0].words
        again = [_with_seed(words, seed) for seed in fresh]
        return [Racer.of(one) for one in placed(config, loader, folder, again, arguments)]

    racers = [[Racer.of(one) for one in runs] for runs in entered]
    held = Racing(racers, on_fresh_seeds, asked, config.sweep.fail_fast)
    say(f"{len(settings)} settings race for {len(seeds)} seeds, after the first {asked.first}")
    batch = 1 if type(launcher).__name__ == "BasicLauncher" else len(settings) * asked.first
    with pool_of(launcher, sum(map(len, entered)), batch) as pool:
        results = [*before, *run_jobs(pool, folder, held.ask, held.progress, held.tell)]
    if not held.is_over:
        held.result([runs[0].name for runs in entered], fresh).write(folder)
    end(folder, results)
    return results


def check_same_end(configs: Iterable[Train | None], asked: str) -> None:
    """
    Raises:
        LabError: if runs that are ranked by val/loss_full have none, or not of the same tokens.
    """
    full = {str(one.eval.full).lower() for one in configs if one is not None}
    if len(full) > 1 or "false" in full:
        raise LabError(
            f"eval.full={','.join(sorted(full))}: {asked} ranks runs by their val/loss_full, so "
            "give one number of tokens for all, or true"
        )


def seeds_of_race(config: DictConfig, settings: Mapping[str, Sequence[Placed]]) -> list[int]:
    """The seeds of all settings.

    Raises:
        LabError: if they are not the same for all, or no numbers; if nobody waits for the runs, or
            they do not come to their ends.
    """
    if not config.sweep.wait:
        raise LabError("sweep.wait=false: a race learns from its results; leave out sweep.race")
    configs = [one.config for runs in settings.values() for one in runs]
    if any(one is not None and one.pause_at is not None for one in configs):
        raise LabError(
            "pause_at: settings race by their losses at the end; leave it out, or sweep.race"
        )
    check_same_end(configs, "sweep.race")
    seeds = [[one.varied.get(SEED) for one in runs] for runs in settings.values()]
    numbers = [seed for seed in seeds[0] if isinstance(seed, int) and not isinstance(seed, bool)]
    if len(numbers) < 2 or any(other != numbers for other in seeds):
        raise LabError(
            "sweep.race: settings race by the same seeds, two or more: give seed=range(1,11), say, "
            "as an axis of its own"
        )
    if max(numbers) + config.sweep.race.first >= 2**63:
        raise LabError(
            f"seed={max(numbers)}: no seeds are left above it for what is measured on fresh ones; "
            "give smaller seeds"
        )
    return numbers


def _with_seed(words: Sequence[str], seed: int) -> list[str]:
    keys = [word.partition("=")[0].lstrip("+") for word in words]
    return [f"seed={seed}" if k == SEED else word for k, word in zip(keys, words, strict=True)]


@dataclass
class Racer:
    """A run of a race."""

    words: list[str]
    run: RunDirectory | None
    loss: float | None = None  # val/loss_full, nats per token; infinite if it failed
    is_asked_for: bool = False

    @classmethod
    def of(cls, one: Placed) -> Racer:
        racer = cls(one.words, one.run)
        racer.look()
        return racer

    def look(self) -> None:
        """See whether it is done."""
        record = self.run.record if self.run is not None else {}
        if record.get("status") == "done":
            loss = record["metrics"]["val/loss_full"]
            self.loss = loss if math.isfinite(loss) else math.inf


@dataclass
class Racing:
    """The runs of a race as jobs."""

    settings: list[list[Racer]]  # in the order of the seeds
    on_fresh_seeds: Callable[[int], list[Racer]]  # the runs that measure a setting
    asked: Race
    fail_fast: bool
    progress: Progress = field(default_factory=lambda: Progress(0))
    given: list[Racer] = field(default_factory=list)  # by their jobs' numbers
    waiting: list[Racer] = field(default_factory=list)
    measured: list[Racer] = field(default_factory=list)  # of the best, once the race is over
    is_over: bool = False  # the next start takes up what was not begun

    @property
    def standings(self) -> Standings:
        assert self.asked.first is not None
        losses = [_until_unknown(runs) for runs in self.settings]
        return race(losses, len(self.settings[0]), self.asked.first, self.asked.least)

    def ask(self) -> list[str] | None:
        """The overrides of the next job."""
        if not self.waiting:
            now = self.standings
            wanted = [run for i in now.racing for run in self.settings[i][: now.wanted]]
            if not now.wanted and now.racing:
                self.measured = wanted = self.measured or self.on_fresh_seeds(now.racing[0])
            self.waiting = [one for one in wanted if one.loss is None and not one.is_asked_for]
        self.progress.total = len(self.given) + len(self.waiting)
        if not self.waiting or self.is_over:
            return None
        self.given.append(one := self.waiting.pop(0))
        one.is_asked_for = True
        return one.words

    def tell(self, number: int, result: Result) -> None:
        """How a job has ended, by its number among those that were asked for."""
        one = self.given[number]
        if result.run is not None:
            one.run = RunDirectory(Path(result.run))
        one.look()
        if result.status in FAILED:
            one.loss = math.inf
        self.is_over |= is_last(result, self.fail_fast)

    def result(self, names: Sequence[str], fresh: list[int]) -> Raced:
        """What the race came to; `names` of the settings, and the seeds that measured the best."""
        now = self.standings
        rows: list[Row] = []
        for i in [*now.racing, *sorted(now.stopped, key=lambda i: -now.stopped[i].n)]:
            stopped = now.stopped.get(i)
            n = stopped.n if stopped else now.n
            loss = _mean(_until_unknown(self.settings[i])[:n])
            row: Any = {"setting": names[i], "seeds": n, "loss": loss}
            if stopped:
                row |= asdict(stopped) | {"against": names[stopped.against]}
            rows.append(row)
        return Raced(
            rows,
            n_seeds=len(self.settings[0]),
            n_runs=sum(row["seeds"] for row in rows),
            fresh=fresh if self.measured else [],
            losses=[run.loss for run in self.measured if run.loss is not None],
            has_winner=now.winner is not None,
            least=self.asked.least,
        )


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses) if losses else math.nan


def _until_unknown(runs: Sequence[Racer]) -> list[float]:
    """The losses of the seeds, up to the first that is not known."""
    losses = []
    for run in runs:
        if run.loss is None:
            break
        losses.append(run.loss)
    return losses
