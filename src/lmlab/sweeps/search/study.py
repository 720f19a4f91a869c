"""An Optuna study in a sweep's directory, worked on by any number of processes.

Who asks for trials holds the study's lock. Each process also holds a lock of its own, which the
operating system releases when it dies: its trials are then anybody's to finish.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import filelock
import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import BaseSampler, GridSampler, RandomSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from lmlab.errors import LabError
from lmlab.files import check_place, lock_at, make_folder, open_to_read, remove
from lmlab.sweeps.search.space import Space
from lmlab.sweeps.table.reading import SEED

# What Optuna and SQLAlchemy raise of a file that somebody damaged: Optuna replays the lines of a
# journal without a look at them.
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError),
    *(RecursionError, sqlite3.Error, SQLAlchemyError, StorageInternalError),
)

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


class JournalLock(JournalFileOpenLock):
    """The operating system's lock: Optuna's own outlives a killed process by half a minute."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = lock_at(path.with_name(f"{path.name}.lock"), path.parent)

    def acquire(self) -> bool:
        self.lock.acquire()
        with self.path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                # A full disk cut the last line off. Nothing could be read after it.
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self.lock.release()


def open_storage(path: Path) -> BaseStorage:
    """The storage in a file: SQLite's if it is called *.db, else a journal."""
    if path.suffix == ".db":
        return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    return JournalStorage(JournalFileBackend(str(path), JournalLock(path)))


@contextmanager
def storage_in(path: Path) -> Iterator[BaseStorage]:
    """The storage in a file that somebody may have damaged, while a study is looked for in it.

    Raises:
        LabError: if it is something else, or cannot be read. It is then left as it is.
    """
    check_place(path, path.parent)
    try:
        if path.exists() and path.stat().st_size:
            (_check_database if path.suffix == ".db" else _check_journal)(path)
        yield open_storage(path)
    except UNREADABLE as error:
        raise LabError(
            f"{path} cannot be used as a study ({_reason(error)}); move it away, or give another "
            "sweep.name"
        ) from error


def _reason(error: Exception) -> str:
    """The first cause, which says most, on one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    said = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return str(said) if isinstance(error, OSError | sqlite3.Error) else f"damaged: {said}"


def _check_journal(path: Path) -> None:
    """Whether a file is a journal, but for a last line that was cut off: Optuna would write on at
    the end of any file.

    Raises:
        OSError, ValueError: if it is not.
    """
    with open_to_read(path, path.parent) as file:
        for number, line in enumerate(file, 1):
            if not (_is_entry(line) if line.endswith(b"\n") else line.startswith(b"{")):
                raise ValueError(f"line {number} is none of a study's")


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and "op_code" in entry


def _check_database(path: Path) -> None:
    """Whether a database is Optuna's, which would put its tables into any.

    Raises:
        sqlite3.Error: if it is no database.
        ValueError: if it is another.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
    if names and not {"studies", "trials", "version_info"} <= set(names):
        raise ValueError("it is the database of something else")


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
                raise LabError(f"cannot go on with {path}: {_reason(error)}") from error
            finally:
                with suppress(LabError):  # what went wrong is said above
                    remove(alive, folder)

    def _check(self, about: dict[str, Any]) -> None:
        stored = self.study.user_attrs.get(ABOUT)
        if stored is None:
            self.study.set_user_attr(ABOUT, about)
            return
        for key in sorted(stored.keys() & about.keys()):
            if stored[key] != about[key]:
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

    def take(self, n: int, n_trials: int, make_sampler: MakeSampler) -> list[FrozenTrial]:
        """Up to `n` trials to train now: those whose process died, then new ones.

        New ones are asked for as long as there are fewer than `n_trials` in all, whoever trains
        them and however they ended. One that is tried again counts once.
        """
        with self.lock:
            trials = self.study.get_trials(deepcopy=False)
            left_behind = [t for t in trials if t.state == TrialState.RUNNING and self._is_free(t)]
            numbers = [trial.number for trial in left_behind[:n]]
            for trial in left_behind[:n]:
                self._finish_asking(trial, make_sampler)
            again = {t.user_attrs[AGAIN] for t in trials if AGAIN in t.user_attrs}
            spent = [t for t in trials if t.state != TrialState.WAITING and t.number not in again]
            room = max(0, n_trials - len(spent))
            new = min(n - len(numbers), room)
            self.left = room - new
            for _ in range(new):
                self.study.sampler = make_sampler(len(self.study.get_trials(deepcopy=False)))
                try:
                    asked = self.study.ask()
                    self.space.suggest(asked._suggest)
                except ValueError as error:
                    raise LabError(f"hydra.sweeper.sampler: {error}") from error
                asked.set_user_attr(SWEEPER, self.me)
                numbers.append(asked.number)
            trials = self.study.get_trials(deepcopy=False)
            return [trials[number] for number in numbers]

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

    def _finish_asking(self, frozen: FrozenTrial, make_sampler: MakeSampler) -> None:
        """Take a trial over: its values stay, and what its process had not asked for is added."""
        self.study.sampler = make_sampler(frozen.number)
        trial = optuna.Trial(self.study, frozen._trial_id)
        self.space.suggest(trial._suggest)
        trial.set_user_attr(SWEEPER, self.me)

    def tell(
        self,
        trial: FrozenTrial,
        state: TrialState,
        values: list[float] | None,
        run: str | None,
        diverged: bool = False,
    ) -> None:
        """The end of a trial, where its run is kept, and whether its loss became no number."""
        if run is not None:
            self.study._storage.set_trial_user_attr(trial._trial_id, RUN, run)
        if diverged:
            self.study._storage.set_trial_user_attr(trial._trial_id, DIVERGED, True)
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
        self._trial = optuna.Trial(loaded, frozen._trial_id)

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
