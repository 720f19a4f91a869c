"""What the Optuna sweeper does: ask for trials, launch them, report how they ended."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from hydra.core.override_parser.types import Quote, QuotedString, Transformer
from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from lmlab.config import build
from lmlab.config.check import check_plain
from lmlab.config.fingerprint import NOT_IN_FINGERPRINT, leaves, under
from lmlab.config.own_code import code_of
from lmlab.config.schema import Count, Custom, Node, Seed
from lmlab.config.words.axes import check_names
from lmlab.console import command, say
from lmlab.errors import LabError
from lmlab.files import make_folder, write_atomically
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.launch.composing import check_jobs
from lmlab.sweeps.launch.journal import FAILED, MULTIRUN, Result
from lmlab.sweeps.launch.launching import (
    Progress,
    check_multirun,
    check_some,
    finish,
    folder_of,
    keep_filled,
    launch,
)
from lmlab.sweeps.launch.pool import Places, places_of

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.plugins.launcher import Launcher
    from optuna.trial import FrozenTrial

    from lmlab.sweeps.search.space import Space
    from lmlab.sweeps.search.study import MakeSampler, SharedStudy


class Sampler(Custom):
    seed: Seed | None = None


class Settings(Node):
    """conf/hydra/sweeper/optuna.yaml."""

    target: str = Field(alias="_target_")
    recursive: bool = Field(alias="_recursive_")
    params: dict[str, Any]
    when: dict[str, dict[str, Any]]
    n_trials: Count
    n_jobs: Count | None
    metrics: Annotated[list[str], Field(min_length=1)]
    directions: list[Literal["minimize", "maximize"]] | None
    storage: Literal["journal", "sqlite"]
    retry_failed: bool
    sampler: Sampler
    pruner: Custom


class Sweeper(Node):
    sweeper: Settings


class Hydra(Node):
    """So that errors name the whole key."""

    hydra: Sweeper


def search(
    config: DictConfig, loader: ConfigLoader, launcher: Launcher, arguments: list[str]
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
    settings = _settings(config)
    check_names(settings["params"], config)
    space = Space.parse(settings["params"], settings["when"], arguments, loader)
    examples = list(space.examples())
    check_jobs(config, loader, examples)  # before anything is asked for
    check_some(config, loader, examples, space.keys)
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
    n_jobs = min(_n_jobs(settings, config), n_trials)
    folder = folder_of(config, n_trials)
    make_folder(folder)
    write_atomically(folder / MULTIRUN, OmegaConf.to_yaml(config).encode())
    results: list[Result] = []
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
        progress = Progress(n_trials)
        trained = _Trials(study, space, settings, n_trials, make_sampler, prunes)
        places = places_of(launcher, n_jobs)
        if places is not None:
            results = _fill(places, folder, trained, progress, config.sweep.fail_fast)
        else:
            results = _in_batches(
                launcher, folder, trained, progress, config.sweep.fail_fast, n_jobs
            )
        _say_best(study, settings)
    if not results:
        say(f"nothing is left to train; the table: {command('sweep')} {folder}")
    finish(folder, results, "hydra.sweeper.retry_failed=true tries them again")
    return results


@dataclass
class _Trials:
    """The trials of a study, as jobs."""

    study: SharedStudy
    space: Space
    settings: dict[str, Any]
    n_trials: int
    make_sampler: MakeSampler
    prunes: bool

    def take(self, n: int) -> list[tuple[FrozenTrial, list[str]]]:
        """Up to `n`, with the overrides of their jobs."""
        found = []
        for trial in self.study.take(n, self.n_trials, self.make_sampler):
            job = self.space.job(trial.params)
            if self.prunes:
                job.append(_trial(self.study, trial.number, self.settings["pruner"]))
            found.append((trial, job))
        return found


def _is_the_last(result: Result, fail_fast: bool) -> bool:
    """Whether nothing more is begun after it: the next start takes up what was not."""
    return result.status in ("skipped", "planned", *(FAILED if fail_fast else ()))


def _fill(
    places: Places, folder: Path, trials: _Trials, progress: Progress, fail_fast: bool
) -> list[Result]:
    """Each place is given a trial as soon as it is free, by all that has ended until then."""
    asked: list[FrozenTrial] = []
    stopped = False

    def ask() -> list[str] | None:
        taken = [] if stopped else trials.take(1)
        asked.extend(trial for trial, _ in taken)
        progress.total = len(asked) + trials.study.left
        return taken[0][1] if taken else None

    def tell(number: int, result: Result) -> None:
        nonlocal stopped
        _report(trials.study, asked[number], result, trials.settings)
        stopped = stopped or _is_the_last(result, fail_fast)

    say(f"{len(places.environments)} trials at a time, each place filled as it becomes free")
    with places:
        return keep_filled(places, folder, ask, tell, progress)


def _in_batches(
    launcher: Launcher,
    folder: Path,
    trials: _Trials,
    progress: Progress,
    fail_fast: bool,
    n_jobs: int,
) -> list[Result]:
    """For launchers that come back when all they were given has ended."""
    results: list[Result] = []
    if n_jobs > 1:
        say(f"{n_jobs} trials in a batch: this launcher comes back when all have ended")
    while taken := trials.take(n_jobs):
        progress.total = len(progress.ended) + len(taken) + trials.study.left
        batch = launch(launcher, folder, [job for _, job in taken], progress)
        for (trial, _), result in zip(taken, batch, strict=True):
            _report(trials.study, trial, result, trials.settings)
        results += batch
        if any(_is_the_last(result, fail_fast) for result in batch):
            break
    return results


def _settings(config: DictConfig) -> dict[str, Any]:
    """hydra.sweeper, checked; every metric has a direction."""
    plain: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    check_plain({"hydra": {"sweeper": plain}}, Hydra)
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

    node, n_trials = settings["sampler"], settings["n_trials"]
    seed, more = node.get("seed"), {}
    is_grid = node["_target_"] == Grid.TARGET
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
        own = node if is_grid or seed is None else {**node, "seed": seed_for(seed, number)}
        return build.part(own, "hydra.sweeper.sampler", BaseSampler, **more)

    return n_trials, make_sampler


def _n_jobs(settings: dict[str, Any], config: DictConfig) -> int:
    """How many trials to launch at once: as configured, or as many as the launcher runs."""
    launcher = config.hydra.launcher
    if "jobs_per_gpu" in launcher:
        return settings["n_jobs"] or sys.maxsize  # as many as there are places
    n_jobs = settings["n_jobs"] or launcher.get("n_jobs") or 1
    return n_jobs if n_jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)


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
    return f"sweep.trial={Transformer.str(_quoted(callback))}"


def _quoted(node: Any) -> Any:
    """Containers as Hydra's grammar has them: any text is quoted."""
    if isinstance(node, dict):
        return {key: _quoted(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_quoted(value) for value in node]
    return QuotedString(node, Quote.single) if isinstance(node, str) else node


def _report(
    study: SharedStudy, trial: FrozenTrial, result: Result, settings: dict[str, Any]
) -> None:
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
