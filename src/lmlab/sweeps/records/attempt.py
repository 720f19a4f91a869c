"""A recipe's seeds, each in processes of its own; what is there already is not trained again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lmlab.config.check import check
from lmlab.config.fingerprint import check_continues
from lmlab.config.schema import Train
from lmlab.config.words.compose import composed
from lmlab.config.words.explain import explain, is_explained
from lmlab.config.words.python_words import in_grammar
from lmlab.console import say
from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.records.rulebook import Budget, Recipe, check_recipe, check_run
from lmlab.sweeps.records.spending import Spent, spent_in

THEN = "then"  # between the trainings of a recipe
METRIC = "val/loss_full"
NAME = "name=record"  # what a training is called in its log


@dataclass(frozen=True)
class Seed:
    """What one seed of a recipe came to."""

    seed: int
    loss: float
    spent: Spent
    record: dict[str, Any]  # of the run that counts


def recipe_of(words: list[str]) -> Recipe:
    """The recipe of overrides: trainings with `then` between them.

    Raises:
        LabError: if one cannot be composed, or breaks a rule.
    """
    trainings: list[list[str]] = [[]]
    for word in words:
        trainings.append([]) if word == THEN else trainings[-1].append(word)
    if not all(trainings):
        raise LabError("give the overrides of a training, such as experiment=record/fast")
    for key in ("seed", "run_dir", "resume", "run", "output_dir"):
        if any(word.startswith(f"{key}=") for word in words):
            raise LabError(f"{key}: is given to each training by its seed")
    stages = tuple(map(_config, trainings))
    recipe = Recipe(stages, tuple(map(tuple, trainings)))
    check_recipe(recipe)
    return recipe


def _config(words: Sequence[str]) -> Train:
    """The checked config of overrides.

    Raises:
        LabError: in one line, also for what Hydra says in many.
    """
    try:
        return check(composed("train", [NAME, *words]), Train)
    except Exception as error:
        if isinstance(error, LabError) or not is_explained(error):
            raise
        raise LabError(explain(error, "train", list(words))) from error


def seeds_of(
    recipe: Recipe, budget: Budget, folder: Path, n_seeds: int, threads: int, jobs: int = 1
) -> list[Seed]:
    """Train the seeds from 1 on, each in a folder of its own; `jobs` of them side by side.

    Raises:
        LabError: if a training fails, or a seed takes more than the budget.
        KeyboardInterrupt: if it was interrupted; the same call goes on.
    """
    train_one = partial(seed_of, recipe, budget, folder, threads=threads, quiet=jobs > 1)
    with ThreadPoolExecutor(jobs) as pool:  # each waits for a process
        return list(pool.map(train_one, range(1, n_seeds + 1)))


def seed_of(
    recipe: Recipe, budget: Budget, folder: Path, seed: int, threads: int, quiet: bool = False
) -> Seed:
    """Train one seed: each training learns from all before it, which have seeds of their own.

    If `quiet`, what the trainings print goes into a file beside them.

    Raises:
        LabError: if a training fails, or the seed takes more than the budget.
    """
    spent, teachers = Spent(0.0, 0.0), list[str]()
    for number, words in enumerate(recipe.words, 1):
        path = folder / f"seed-{seed}" / f"training-{number}"
        own = [
            f"seed={seed + 1000 * (len(recipe.words) - number)}",
            f"run_dir={in_grammar(str(path))}",
        ]
        if teachers:
            own.append(f"teacher.runs={in_grammar(teachers)}")
        if quiet:
            say(f"seed {seed}: training {number} of {len(recipe.words)} in {path}")
        record, took = _trained(path, [*words, *own, "resume=auto"], threads, quiet)
        spent += took
        teachers.append(str(path))
    loss = record["metrics"][METRIC]
    say(
        f"seed {seed}: {METRIC} {loss:.4f}, {spent.cpu:.1f} of {budget.cpu_seconds:,} seconds "
        f"of processor time, {spent.wall:.1f} s by the clock"
    )
    if spent.cpu > budget.cpu_seconds:
        raise LabError(f"seed {seed} took more than the budget {budget.name} has")
    return Seed(seed, loss, spent, record)


def _trained(
    path: Path, words: list[str], threads: int, quiet: bool
) -> tuple[dict[str, Any], Spent]:
    """The record of a run that is done, or is trained now, and what it took.

    Raises:
        LabError: if it is of another recipe, was killed or trained elsewhere, or fails.
    """
    run, spent_file = RunDirectory(path), path.with_name(f"{path.name}.spent.jsonl")
    if run.unchecked_record:
        check_continues(run.config, _config(words).plain(), may_change=("teacher.runs",))
    spent_in(spent_file)
    if run.unchecked_record.get("status") != "done":
        program = [sys.executable, "-m", "lmlab.sweeps.records.spending", str(spent_file)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.log").open("ab") if quiet else nullcontext() as log:
            status = subprocess.call(
                [*program, NAME, *words], env=environment, stdout=log, stderr=log
            )
        if status:
            raise LabError(f"{path}: the training ended with status {status}; the same goes on")
    record, spent = run.record, spent_in(spent_file)
    check_run(str(path), record)
    if record["seconds"] > spent.wall:
        raise LabError(f"{path} was trained by another command, too: delete {path.parent}")
    return record, spent
