"""What the halving sweeper does: train settings to rungs, and the best of each rung further.

A run pauses at its rung and goes on from its own checkpoint, so one that comes to the end is the
run that never paused. Which goes on is decided by what the runs' directories say, in `rungs`: a
sweep that was killed looks there first, and goes on with what it had decided.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import DictConfig
from pydantic import Field

from lmlab.config.schema import Count, Seed
from lmlab.config.words.axes import Axes, every_row
from lmlab.console import say
from lmlab.errors import LabError
from lmlab.files import open_to_read
from lmlab.runs.directory import METRICS, RunDirectory
from lmlab.sweeps.journal.journal import FAILED, Result
from lmlab.sweeps.launch.launching import run_jobs
from lmlab.sweeps.launch.pool import pool_of
from lmlab.sweeps.launch.preparing import check_jobs, check_multirun, make_sweep
from lmlab.sweeps.launch.progress import Progress
from lmlab.sweeps.search.candidates import (
    Placed,
    SweeperSettings,
    by_setting,
    end,
    is_last,
    placed,
    sweeper_settings,
)
from lmlab.sweeps.search.racing import check_same_end, hold_race, seeds_of_race
from lmlab.sweeps.search.rungs import Standing, next_move, rungs

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher

    from lmlab.sweeps.launch.composing import RememberingLoader
    from lmlab.sweeps.search.space import Example

METRICS_LOGGER = "lmlab.display.loggers.MetricsCSV"


class Settings(SweeperSettings):
    """conf/hydra/sweeper/halving.yaml."""

    min_steps: Count
    factor: Annotated[int, Field(ge=2)]
    synchronous: bool
    n_drawn: Count | None
    seed: Seed


def halve(
    config: DictConfig, loader: RememberingLoader, launcher: Launcher, arguments: list[str]
) -> list[Result]:
    """Train settings by successive halving; the results of what this process trained.

    `arguments` are the overrides of the command line, those that sweep and those that do not.

    Raises:
        LabError: for what the user can put right; if a run failed, once all is done.
    """
    if not config.sweep.wait:
        raise LabError(
            "sweep.wait=false: halving learns from its results; hydra/sweeper=grid can leave"
        )
    asked = sweeper_settings(config, Settings)
    axes = Axes.parse(asked.params, asked.when, arguments, loader, config)
    jobs, examples = _jobs(axes, asked, check_multirun(config).sweep.max_jobs)
    if examples is None:
        check_jobs(config, loader, arguments, jobs)
    else:
        words, open_keys = zip(*examples, strict=True)
        check_jobs(config, loader, arguments, words, len(jobs), open_keys)
    candidates = placed(config, loader, Path(config.hydra.sweep.dir), jobs, arguments)
    if any(one.config is not None and one.config.pause_at is not None for one in candidates):
        raise LabError("pause_at: hydra/sweeper=halving says where each run pauses; leave it out")
    _check_steps(candidates)
    _check_losses_are_kept(candidates)
    steps = _rungs(candidates, asked)
    entered, first = by_setting(candidates), config.sweep.race.first
    if first is not None:
        seeds_of_race(config, entered)
    folder = make_sweep(config)
    settings = {
        setting: [Candidate(one.words, one.run) for one in runs[:first]]
        for setting, runs in entered.items()
    }
    for runs in settings.values():
        for run in runs:
            run.look(steps)
    # In the order of an axis each may be better than all before it, and then each would go on.
    order = sorted(settings, key=lambda setting: _shuffled(setting, asked.seed))
    in_order, fail_fast = [settings[setting] for setting in order], config.sweep.fail_fast
    halving = Halving(in_order, steps, asked.factor, asked.synchronous, fail_fast)
    n_runs = sum(map(len, in_order))
    say(
        f"{len(settings)} settings, {n_runs} runs: the best 1/{asked.factor} of each rung go on "
        f"from step {', '.join(map(str, steps[:-1]))}, and the last to step {steps[-1]}"
    )
    # A launcher that comes back when all have ended is given all that can begin.
    batch = 1 if type(launcher).__name__ == "BasicLauncher" else len(jobs)
    with pool_of(launcher, len(jobs), batch) as pool:
        results = run_jobs(pool, folder, halving.ask, halving.progress, halving.tell)
    left = [key for key, runs in settings.items() if all(r.is_at(len(steps) - 1) for r in runs)]
    if first is not None and left and not halving.is_over:  # the other seeds decide among these
        theirs = {key: entered[key] for key in left}
        return hold_race(config, loader, launcher, arguments, folder, theirs, results)
    end(folder, results)
    return results


def _jobs(axes: Axes, asked: Settings, most: int) -> tuple[list[list[str]], list[Example] | None]:
    """The overrides of each run: every combination of the values, or settings drawn at random, each
    with every seed, and then examples of what may be drawn."""
    endless = [b.label for b in axes.branches if b.is_swept and b.rows is None]
    if asked.n_drawn is None and endless:
        raise LabError(
            f"{endless[0]}: an interval has no end of values; hydra.sweeper.n_drawn=… draws as many"
        )
    if asked.n_drawn is None:
        axes.check_size(most)
        return list(axes.jobs(every_row)), None
    try:
        from lmlab.sweeps.search.draws import drawn
        from lmlab.sweeps.search.space import Space
    except ModuleNotFoundError as error:
        raise LabError('hydra.sweeper.n_drawn: pip install "lmlab[sweep]" brings it') from error
    space = Space.of(axes)
    return list(drawn(space, asked.n_drawn, asked.seed)), list(space.examples())


@dataclass
class Candidate:
    """A run as the sweep sees it."""

    words: list[str]
    run: RunDirectory | None  # None: its config is refused, as it will say itself
    goal: int | None = None  # the rung that it was told to come to
    losses: list[float] = field(default_factory=list)  # val/loss at each rung that it has come to

    @property
    def is_there(self) -> bool:
        return self.goal is not None and len(self.losses) > self.goal

    def is_at(self, rung: int) -> bool:
        """Whether it has come to a rung, and is not the worse for it."""
        return len(self.losses) > rung and math.isfinite(self.losses[rung])

    def look(self, steps: Sequence[int]) -> None:
        """See how far it has come.

        Raises:
            LabError: if it has no val/loss where it ought to have one.
        """
        record = self.run.record if self.run is not None else {}
        if self.run is None or not record:
            return
        pause_at, status, last = record.get("pause_at"), record["status"], len(steps) - 1
        goal = next((i for i, step in enumerate(steps) if pause_at and step >= pause_at), last)
        is_there = status == "done" or (status == "paused" and record["step"] >= steps[goal])
        passed = steps[: goal + is_there]
        losses = _val_losses(self.run)
        if lacking := [step for step in passed[:last] if step not in losses]:
            raise LabError(
                f"{self.run.path} has no val/loss at step {lacking[0]} in its {METRICS}: halving "
                "ranks by it, so give each run logger.csv, and an evaluation there"
            )
        self.goal, self.losses = goal, [losses[step] for step in passed[:last]]
        if len(passed) > last:
            self.losses.append(record["metrics"]["val/loss_full"])

    def fail(self) -> None:
        """It comes to its rung no more."""
        assert self.goal is not None
        self.losses += [math.inf] * (self.goal + 1 - len(self.losses))


def _shuffled(setting: str, seed: int) -> bytes:
    """What sorts settings as if at random, the same at each start."""
    return hashlib.sha256(f"{seed}/{setting}".encode()).digest()


def _val_losses(run: RunDirectory) -> dict[int, float]:
    """val/loss by step, as far as it can be read."""
    try:
        with io.TextIOWrapper(open_to_read(run.path / METRICS, run.path), "utf-8") as file:
            rows = [(row["step"], row.get("val/loss")) for row in csv.DictReader(file)]
        return {int(step): float(loss) for step, loss in rows if loss}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}


@dataclass
class Halving:
    """The runs of a sweep, by their settings, as jobs: each goes on when it is decided that it
    does, and a free place is given the next."""

    settings: list[list[Candidate]]
    steps: list[int]  # of the rungs; the last is the end
    factor: int
    synchronous: bool
    fail_fast: bool
    progress: Progress = field(default_factory=lambda: Progress(0, grows=True))
    asked: list[Candidate] = field(default_factory=list)  # by their jobs' numbers
    waiting: list[Candidate] = field(default_factory=list)
    is_over: bool = False  # the next start takes up what was not begun

    def __post_init__(self) -> None:
        for runs in self.settings:  # what an earlier start had decided comes first
            goals = [one.goal for one in runs if one.goal is not None]
            if goals:
                self._send(runs, max(goals))

    def ask(self) -> list[str] | None:
        """The overrides of the next job."""
        standings = [_standing(runs) for runs in self.settings]
        while not self.waiting and not self.is_over:
            move = next_move(standings, len(self.steps), self.factor, self.synchronous)
            if move is None:
                break
            self._send(self.settings[move.setting], move.goal)
            standings[move.setting] = _standing(self.settings[move.setting])
        n_new = sum(len(runs) for runs in self.settings if runs[0].goal is None)
        self.progress.total = len(self.asked) + len(self.waiting) + n_new
        if not self.waiting or self.is_over:
            return None
        self.asked.append(run := self.waiting.pop(0))
        step = self.steps[run.goal or 0]
        return [*run.words, *([] if step == self.steps[-1] else [f"pause_at={step}"])]

    def _send(self, runs: Sequence[Candidate], goal: int) -> None:
        for run in runs:
            run.goal = goal
            if not run.is_there:
                self.waiting.append(run)

    def tell(self, number: int, result: Result) -> None:
        """How a job has ended, by its number among those that were asked for."""
        run = self.asked[number]
        if result.run is not None:
            run.run = RunDirectory(Path(result.run))
        if result.status in FAILED:
            run.fail()
        elif result.status in ("done", "paused"):
            run.look(self.steps)
        self.is_over |= is_last(result, self.fail_fast)


def _standing(runs: Sequence[Candidate]) -> Standing:
    """A setting comes to a rung with the last of its seeds, and its loss there is their mean."""
    together = zip(*(run.losses for run in runs), strict=False)
    losses = tuple(sum(of_seeds) / len(of_seeds) for of_seeds in together)
    return Standing(losses, min((run.goal for run in runs if run.goal is not None), default=None))


def _check_steps(candidates: Sequence[Placed]) -> None:
    """
    Raises:
        LabError: if a model that has no run yet takes no steps.
    """
    configs = [one.config for one in candidates if one.config and one.run and not one.run.record]
    targets = {config.model["_target_"] for config in configs}
    if not targets:
        return
    from lmlab.config.targets import named  # here, for they import torch
    from lmlab.models.contract import Hooks

    for target in sorted(targets):
        if Hooks.of(named(target)).fit is not None:
            raise LabError(
                f"hydra/sweeper=halving: {target} counts and takes no steps, so it comes to no "
                "rung; leave it out, or give hydra/sweeper=grid"
            )


def _check_losses_are_kept(candidates: Sequence[Placed]) -> None:
    """
    Raises:
        LabError: if a run keeps no losses at evaluations, as far as the lab's own loggers go, or
            has another end than the others.
    """
    check_same_end((one.config for one in candidates), "hydra/sweeper=halving")
    for one in candidates:
        loggers = one.config.logger.values() if one.config is not None else ()
        targets = {str(part["_target_"]) for part in loggers if isinstance(part, dict)}
        if (
            one.config
            and METRICS_LOGGER not in targets
            and all(target.startswith("lmlab.") for target in targets)
        ):
            raise LabError(
                f"hydra/sweeper=halving ranks runs by their {METRICS}, which logger.csv writes: "
                "leave ~logger.csv out"
            )


def _rungs(candidates: Sequence[Placed], asked: Settings) -> list[int]:
    """The steps of the rungs.

    Raises:
        LabError: if they are not the same for all, or not at evaluations.
    """
    lengths: dict[tuple[int, int], str] = {}
    for one in candidates:
        if one.config is not None:
            lengths[one.config.trainer.max_steps, one.config.eval.every] = one.name
    if len(lengths) > 1:
        (first, a), (second, b) = list(lengths.items())[:2]
        raise LabError(
            f"hydra/sweeper=halving: rungs are at the same steps for all, and {a} has "
            f"trainer.max_steps={first[0]} eval.every={first[1]}, {b} "
            f"trainer.max_steps={second[0]} eval.every={second[1]}"
        )
    ((max_steps, every),) = lengths
    if asked.min_steps >= max_steps:
        raise LabError(
            f"hydra.sweeper.min_steps={asked.min_steps}: give a step before the end, "
            f"trainer.max_steps={max_steps}"
        )
    steps = rungs(asked.min_steps, asked.factor, max_steps)
    if any(step % every for step in steps[:-1]):
        raise LabError(
            f"hydra.sweeper.min_steps={asked.min_steps}: rungs are at evaluations, so give a "
            f"multiple of eval.every={every}"
        )
    return steps
