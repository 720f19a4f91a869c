"""An Optuna study in a sweep's directory, worked on by any number of processes.

Who asks for trials holds the study's lock. Each process also holds a lock of its own, which the
operating system releases when it dies: its trials are then anybody's to finish.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import filelock
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import BaseSampler, GridSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from lmlab.config.words.python_words import canonical
from lmlab.errors import LabError
from lmlab.files import lock_at, make_folder, remove
from lmlab.sweeps.search.optuna_inside import trial_again
from lmlab.sweeps.search.space import Space
from lmlab.sweeps.search.storage import reason, storage_in
from lmlab.sweeps.table.reading import SEED

NAME = "sweep"  # of the study in its storage
FILES = {"journal": "study.journal", "sqlite": "study.db"}
SWEEPERS = ".sweepers"  # the folder of the locks that say who lives
ABOUT = "about"  # noted on the study: what its trials have in common
SWEEPER_NAME = re.compile(r"\d+-[0-9a-f]{8}")
SWEEPER, RUN, AGAIN = "sweeper", "run", "tries_again"  # noted on a trial
DIVERGED = "diverged"  # too

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=ExperimentalWarning)

MakeSampler = Callable[[int], BaseSampler]  # for the trial of that number


class SharedStudy:
    """A study as one process sees it. Use `opened`."""

    def __init__(
        self, path: Path, study: optuna.Study, space: Space, me: str, lock: filelock.BaseFileLock
    ):
        self.path, self.study, self.space, self.me, self.lock = path, study, space, me, lock
        self.left = 0  # trials that nobody had been given after the last `take`

    @classmethod
    @contextmanager
    def opened(
        cls,
        folder: Path,
        storage: str,
        space: Space,
        directions: Sequence[Literal["minimize", "maximize"]],
        pruner: optuna.pruners.BasePruner,
        about: dict[str, Any],
    ) -> Iterator[SharedStudy]:
        """The study in `folder`, made if there is none; this process lives until the block ends.

        `about` is what must stay the same for trials to be compared, by key.

        Raises:
            LabError: if the study that is there is another one.
        """
        path = folder / FILES[storage]
        for other, name in FILES.items():
            if other != storage and (folder / name).is_file():
                raise LabError(
                    f"hydra.sweeper.storage={storage}: the study of this sweep is in {name}; give "
                    f"hydra.sweeper.storage={other}, or another sweep.name"
                )
        alive = folder / SWEEPERS / f"{os.getpid()}-{secrets.token_hex(4)}.lock"
        make_folder(alive.parent, within=folder)
        lock = lock_at(folder / ".study.lock", folder)
        with lock_at(alive, folder):
            try:
                with lock, storage_in(path) as in_file:
                    study = optuna.create_study(
                        study_name=NAME,
                        storage=in_file,
                        directions=directions,
                        pruner=pruner,
                        load_if_exists=True,
                    )
                    shared = cls(path, study, space, alive.stem, lock)
                    shared._check(about)
                yield shared
            except (OSError, SQLAlchemyError, StorageInternalError) as error:  # a full disk
                raise LabError(f"cannot go on with {path}: {reason(error)}") from error
            finally:
                with suppress(LabError):  # what went wrong is said above
                    remove(alive, folder)

    def _check(self, about: dict[str, Any]) -> None:
        stored = self.study.user_attrs.get(ABOUT)
        if stored is None:
            self.study.set_user_attr(ABOUT, about)
            return
        for key in sorted(stored.keys() & about.keys()):
            if canonical(stored[key]) != canonical(about[key]):
                raise LabError(
                    f"this study cannot go on with another {key}: {stored[key]!r} is now "
                    f"{about[key]!r}; give it a sweep.name of its own"
                )
        for trial in self.study.get_trials(deepcopy=False):
            for key, before in trial.distributions.items():
                now = self.space.searched.get(key, before)
                try:
                    check_distribution_compatibility(before, now)
                except ValueError:
                    raise LabError(
                        f"{key}: this study searches {before} and cannot go on with {now}; give "
                        "it a sweep.name of its own"
                    ) from None

    def try_failed_again(self) -> None:
        """Queue the failed trials once more, as new trials with the same values."""
        with self.lock:
            trials = self.study.get_trials(deepcopy=False)
            again = {trial.user_attrs.get(AGAIN) for trial in trials}
            for trial in trials:
                if trial.state == TrialState.FAIL and trial.number not in again:
                    self.study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})

    def take(self, n: int, n_trials: int, make_sampler: MakeSampler) -> list[optuna.Trial]:
        """Up to `n` trials to train now: those whose process died, then new ones.

        New ones are asked for as long as there are fewer than `n_trials` in all, whoever trains
        them and however they ended. One that is tried again counts once.
        """
        with self.lock:
            trials = self.study.get_trials(deepcopy=False)
            left_behind = [t for t in trials if t.state == TrialState.RUNNING and self._is_free(t)]
            taken = [self._take_over(trial, make_sampler) for trial in left_behind[:n]]
            again = {t.user_attrs[AGAIN] for t in trials if AGAIN in t.user_attrs}
            spent = [t for t in trials if t.state != TrialState.WAITING and t.number not in again]
            room = max(0, n_trials - len(spent))
            new = min(n - len(taken), room)
            self.left = room - new
            for _ in range(new):
                self.study.sampler = make_sampler(len(self.study.get_trials(deepcopy=False)))
                try:
                    asked = self.study.ask()
                    self.space.suggest(partial(suggested, asked))
                except ValueError as error:
                    raise LabError(f"hydra.sweeper.sampler: {error}") from error
                asked.set_user_attr(SWEEPER, self.me)
                taken.append(asked)
            return taken

    def _is_free(self, trial: FrozenTrial) -> bool:
        """Whether nobody trains it: its process is dead, or died before it could put its name."""
        name = trial.user_attrs.get(SWEEPER)
        if name is None:
            return True
        if name == self.me:
            return False
        if not SWEEPER_NAME.fullmatch(str(name)):
            return True
        folder = self.path.parent
        path = folder / SWEEPERS / f"{name}.lock"
        try:
            with lock_at(path, folder).acquire(blocking=False):
                pass
        except filelock.Timeout:
            return False
        remove(path, folder)
        return True

    def _take_over(self, frozen: FrozenTrial, make_sampler: MakeSampler) -> optuna.Trial:
        """Its values stay, and what its process had not asked for is added."""
        self.study.sampler = make_sampler(frozen.number)
        trial = trial_again(self.study, frozen)
        self.space.suggest(partial(suggested, trial))
        trial.set_user_attr(SWEEPER, self.me)
        return trial

    def tell(
        self,
        trial: optuna.Trial,
        state: TrialState,
        values: list[float] | None,
        run: str | None,
        diverged: bool = False,
    ) -> None:
        """The end of a trial, where its run is kept, and whether its loss became no number."""
        if run is not None:
            trial.set_user_attr(RUN, run)
        if diverged:
            trial.set_user_attr(DIVERGED, True)
        self.study.tell(trial.number, values, state)

    def best(self) -> list[FrozenTrial]:
        """The best trial; of several objectives, those that none beats in all; [] if all failed.

        Where the seed is searched too, none whose values diverged with another seed: one that
        lived by luck is not the best.
        """
        trials = self.study.get_trials(deepcopy=False)
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        lived = [trial.params for trial in done]  # at last, if one was tried again
        diverged = [
            _but_seed(trial)
            for trial in trials
            if trial.user_attrs.get(DIVERGED) and trial.params not in lived
        ]
        done = [trial for trial in done if _but_seed(trial) not in diverged]
        signs = [-1 if d == StudyDirection.MAXIMIZE else 1 for d in self.study.directions]
        losses = [[s * x for s, x in zip(signs, t.values, strict=True)] for t in done]
        front = [
            trial
            for trial, own in zip(done, losses, strict=True)
            if not any(
                other != own and all(a <= b for a, b in zip(other, own, strict=True))
                for other in losses
            )
        ]
        return front if len(signs) > 1 else front[:1]


def suggested(trial: optuna.Trial, name: str, d: BaseDistribution) -> Any:
    """What the study's sampler proposes of a distribution, or has proposed before."""
    if name in trial.params:
        return trial.params[name]
    if isinstance(d, CategoricalDistribution):
        return trial.suggest_categorical(name, d.choices)
    if isinstance(d, IntDistribution):
        return trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
    assert isinstance(d, FloatDistribution)
    return trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)


def _but_seed(trial: FrozenTrial) -> dict[str, Any]:
    return {key: value for key, value in trial.params.items() if key != SEED}


class TrialInTraining:
    """A trial as the job that trains it sees it, in whatever process that is."""

    def __init__(self, study: str, number: int, pruner: optuna.pruners.BasePruner):
        # The sampler has had its say; a plain one spares this process from asking it again.
        with storage_in(Path(study)) as storage:
            loaded = optuna.load_study(
                study_name=NAME, storage=storage, sampler=RandomSampler(), pruner=pruner
            )
        frozen = loaded.get_trials(deepcopy=False)[number]
        self.steps = set(frozen.intermediate_values)  # that were reported, before a resume too
        self._trial = trial_again(loaded, frozen)

    def report(self, loss: float, step: int) -> None:
        """Once for each step: training that is done again comes to the same loss."""
        if step not in self.steps:
            self._trial.report(loss, step)
            self.steps.add(step)

    def is_hopeless(self) -> bool:
        """The pruner's verdict, by what other trials had reached at this point."""
        return self._trial.should_prune()


def seed_for(seed: int, number: int) -> int:
    """The sampler's seed for one trial: a study that is resumed proposes what it would have, and
    not its first trials over again."""
    return int.from_bytes(hashlib.sha256(f"{seed}/trial/{number}".encode()).digest()[:4])


class Grid(GridSampler):
    """Every point of the grid once."""

    TARGET = "lmlab.sweeps.search.study.Grid"

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Optuna's would stop a loop that it believes it is in; it is the sweeper that counts."""
