"""What the Optuna sweeper does: ask for trials, launch them, report how they ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from lmlab.config import build
from lmlab.config.fingerprint import NOT_IN_FINGERPRINT, leaves, under
from lmlab.config.own_code import code_of
from lmlab.config.schema import Count, Custom, Seed
from lmlab.config.words.axes import Axes
from lmlab.config.words.python_words import in_grammar
from lmlab.console import command, say
from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.journal.journal import FAILED, Result
from lmlab.sweeps.launch.launching import finish, run_jobs
from lmlab.sweeps.launch.pool import pool_of
from lmlab.sweeps.launch.preparing import check_jobs, check_multirun, make_sweep
from lmlab.sweeps.launch.progress import Progress
from lmlab.sweeps.search.candidates import SweeperSettings, is_last, sweeper_settings

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher
    from optuna import Trial

    from lmlab.sweeps.launch.composing import RememberingLoader
    from lmlab.sweeps.search.space import Space
    from lmlab.sweeps.search.study import MakeSampler, SharedStudy


class Sampler(Custom):
    seed: Seed | None = None


class Settings(SweeperSettings):
    """conf/hydra/sweeper/optuna.yaml."""

    recursive: bool = Field(alias="_recursive_")
    n_trials: Count
    n_jobs: Count | None
    metrics: Annotated[list[str], Field(min_length=1)]
    directions: list[Literal["minimize", "maximize"]] | None
    storage: Literal["journal", "sqlite"]
    retry_failed: bool
    sampler: Sampler
    pruner: Custom


def search(
    config: DictConfig, loader: RememberingLoader, launcher: Launcher, arguments: list[str]
) -> list[Result]:
    """Train trials until the study has as many as it is to have; the results of this process's.

    `arguments` are the overrides of the command line, those that sweep and those that do not.

    Raises:
        LabError: for what the user can put right; if a trial failed, once all is done.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise LabError('hydra/sweeper=optuna: pip install "lmlab[sweep]" brings it') from error
    from lmlab.sweeps.search.space import Space
    from lmlab.sweeps.search.study import SharedStudy

    if not config.sweep.wait:
        raise LabError(
            "sweep.wait=false: a search learns from its results; hydra/sweeper=grid can leave"
        )
    if config.sweep.race.first is not None:
        raise LabError(
            "sweep.race: seeds race for the settings of hydra/sweeper=grid or halving; Optuna "
            "searches a seed as any key"
        )
    settings = _settings(config)
    axes = Axes.parse(settings["params"], settings["when"], arguments, loader, config)
    space = Space.of(axes)
    pruner = build.part(settings["pruner"], "hydra.sweeper.pruner", optuna.pruners.BasePruner)
    prunes = not isinstance(pruner, optuna.pruners.NopPruner)
    if prunes and settings["directions"] != ["minimize"]:
        raise LabError(
            f"hydra.sweeper.pruner: trials are pruned by their val/loss, so they need one metric "
            f"that is minimised, not metrics={settings['metrics']} "
            f"directions={settings['directions']}; choose hydra/sweeper/pruner=none"
        )
    most = check_multirun(config).sweep.max_jobs
    n_trials, make_sampler = _plan(settings, space, most)
    examples, open_keys = zip(*space.examples(), strict=True)
    check_jobs(config, loader, arguments, examples, n_trials, open_keys)
    folder = make_sweep(config)
    with SharedStudy.opened(
        folder,
        settings["storage"],
        space,
        settings["directions"],
        pruner,
        _about(settings, space, config),
    ) as study:
        ended = sum(trial.state.is_finished() for trial in study.study.trials)
        say(f"{ended} of {n_trials} trials have ended so far in {study.path}")
        if settings["retry_failed"]:
            study.try_failed_again()
        progress, fail_fast = Progress(n_trials), config.sweep.fail_fast
        trials = _Trials(
            study, space, settings, n_trials, make_sampler, prunes, fail_fast, progress
        )
        at_once = settings["n_jobs"]
        batch = max(1, at_once or config.hydra.launcher.get("n_jobs") or 1)
        with pool_of(launcher, min(at_once or n_trials, n_trials), min(batch, n_trials)) as pool:
            if pool.at_once > 1:
                say(f"{pool.at_once} trials {pool.pace}")
            results = run_jobs(pool, folder, trials.ask, progress, trials.tell)
        _say_best(study, settings)
    if not results:
        say(f"nothing is left to train; the table: {command('sweep')} {folder}")
    finish(folder, results, "hydra.sweeper.retry_failed=true tries them again")
    return results


@dataclass
class _Trials:
    """The trials of a study, as jobs: each is asked for by all that has ended until then."""

    study: SharedStudy
    space: Space
    settings: dict[str, Any]
    n_trials: int
    make_sampler: MakeSampler
    prunes: bool
    fail_fast: bool
    progress: Progress
    asked: list[Trial] = field(default_factory=list)
    is_over: bool = False  # the next start takes up what was not begun

    def ask(self) -> list[str] | None:
        """The overrides of the next trial's job."""
        taken = [] if self.is_over else self.study.take(1, self.n_trials, self.make_sampler)
        self.asked += taken
        self.progress.total = len(self.asked) + self.study.left
        if not taken:
            return None
        job = self.space.job(taken[0].params)
        if self.prunes:
            job.append(_trial(self.study, taken[0].number, self.settings["pruner"]))
        return job

    def tell(self, number: int, result: Result) -> None:
        """How the job of a trial has ended, by its number among those that were asked for."""
        _report(self.study, self.asked[number], result, self.settings)
        self.is_over |= is_last(result, self.fail_fast)


def _settings(config: DictConfig) -> dict[str, Any]:
    """hydra.sweeper, checked; every metric has a direction."""
    plain = sweeper_settings(config, Settings).plain()
    if plain["directions"] is None:
        plain["directions"] = ["minimize"] * len(plain["metrics"])
    if len(plain["directions"]) != len(plain["metrics"]):
        raise LabError(
            f"hydra.sweeper.directions={plain['directions']}: one for each of "
            f"metrics={plain['metrics']}"
        )
    return plain


def _plan(settings: dict[str, Any], space: Space, most: int) -> tuple[int, MakeSampler]:
    """How many trials there are to be in all, and what makes the sampler of each; a grid has at
    most `most` points."""
    from optuna.samplers import BaseSampler

    from lmlab.sweeps.search.study import Grid, seed_for

    n_trials, more = settings["n_trials"], {}
    seed = settings["sampler"].get("seed")
    is_grid = settings["sampler"]["_target_"] == Grid.TARGET
    if is_grid:
        if space.n_points > most:
            raise LabError(
                f"hydra/sweeper/sampler=grid: {space.n_points:,} points, and at most "
                f"sweep.max_jobs={most:,}: give fewer values, or a larger sweep.max_jobs"
            )
        more["search_space"] = space.grid()
        size = math.prod(len(values) for values in more["search_space"].values())
        if n_trials < size:
            say(f"hydra.sweeper.n_trials={n_trials}: the grid has {size} points")
        n_trials = min(n_trials, size)

    def make_sampler(number: int) -> BaseSampler:
        # A grid's seed settles which point belongs to which number, so all trials have the same.
        node = settings["sampler"]
        own = node if is_grid or seed is None else {**node, "seed": seed_for(seed, number)}
        return build.part(own, "hydra.sweeper.sampler", BaseSampler, **more)

    return n_trials, make_sampler


def _about(settings: dict[str, Any], space: Space, config: DictConfig) -> dict[str, Any]:
    """What must stay the same for the trials of a study to be compared: what is not searched."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    outside = ("hydra", *NOT_IN_FINGERPRINT, *space.keys)
    fixed = {key: value for key, value in leaves(plain) if not under(key, outside)}
    settled = [b for b in space.axes.branches if not b.is_swept]  # under a condition
    fixed |= {b.label: list(b.rows[0].words) for b in settled if b.rows}
    own = {key: value for key, value in plain.items() if key != "hydra"}
    fixed |= {f"code of {module}": sha256 for module, sha256 in code_of(own).items()}
    return fixed | {f"hydra.sweeper.{key}": settings[key] for key in ("metrics", "directions")}


def _trial(study: SharedStudy, number: int, pruner: dict[str, Any]) -> str:
    """The override by which a job knows which trial it is."""
    callback = {
        "_target_": "lmlab.sweeps.search.pruning.Pruning",
        "_recursive_": False,
        "study": str(study.path),
        "number": number,
        "pruner": pruner,
    }
    return f"sweep.trial={in_grammar(callback)}"


def _report(study: SharedStudy, trial: Trial, result: Result, settings: dict[str, Any]) -> None:
    from optuna.trial import TrialState

    if result.status == "pruned":
        study.tell(trial, TrialState.PRUNED, None, result.run)
    elif result.status in FAILED:
        study.tell(trial, TrialState.FAIL, None, result.run, result.diverged)
    elif result.status == "done":
        values = _values(RunDirectory(Path(str(result.run))), settings["metrics"])
        finite = all(math.isfinite(value) for value in values)
        state = TrialState.COMPLETE if finite else TrialState.FAIL
        study.tell(trial, state, values if finite else None, result.run)


def _values(run: RunDirectory, metrics: Sequence[str]) -> list[float]:
    """The metrics of a finished run by name: of its evaluations, or a number of its record.

    Raises:
        LabError: if one is not there.
    """
    record = run.record
    known = {key: value for key, value in record.items() if isinstance(value, int | float)}
    known |= record["metrics"]
    for name in metrics:
        if name not in known:
            raise LabError(
                f"hydra.sweeper.metrics: {name} is not in {run.path}; there is "
                f"{', '.join(sorted(known))}"
            )
    return [float(known[name]) for name in metrics]


def _say_best(study: SharedStudy, settings: dict[str, Any]) -> None:
    """The best trial; of several metrics, every trial that none other beats in all of them."""
    from lmlab.sweeps.search.study import RUN

    for best in study.best():
        values = ", ".join(
            f"{name} {value:.6g}"
            for name, value in zip(settings["metrics"], best.values, strict=True)
        )
        params = ", ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in best.params.items()
        )
        say(f"best    trial {best.number}: {values} with {params}")
        say(f"        {best.user_attrs.get(RUN)}")
