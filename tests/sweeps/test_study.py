"""A study that processes share, looked at without training anything."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import filelock
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from lmlab.config.words.axes import Axes
from lmlab.errors import LabError
from lmlab.sweeps.search.space import Space
from lmlab.sweeps.search.storage import open_storage
from lmlab.sweeps.search.study import (
    FILES,
    NAME,
    SWEEPER,
    Grid,
    SharedStudy,
    TrialInTraining,
    seed_for,
)

AXES = {"x": "interval(0, 1)", "y": "a,b"}
SPACE = Space.of(Axes.parse(AXES, {}, []))
STORAGES = pytest.mark.parametrize("storage", ["journal", "sqlite"])


def sampler(number: int) -> RandomSampler:
    return RandomSampler(seed=seed_for(1, number))


def opened(folder, storage="journal", space=SPACE, **about):
    pruner = optuna.pruners.NopPruner()
    return SharedStudy.opened(folder, storage, space, ["minimize"], pruner, about)


@STORAGES
def test_two_processes_are_given_each_trial_once(tmp_path, storage):
    with opened(tmp_path, storage) as one, opened(tmp_path, storage) as other:
        taken = [one.take(2, 5, sampler), other.take(2, 5, sampler), one.take(2, 5, sampler)]
        assert [[trial.number for trial in trials] for trials in taken] == [[0, 1], [2, 3], [4]]
        assert other.take(2, 5, sampler) == []
        assert (one.left, other.left) == (0, 0)


@STORAGES
def test_a_trial_of_the_dead_is_taken_over_as_it_was(tmp_path, storage):
    with opened(tmp_path, storage) as dead:
        (before,) = dead.take(1, 5, sampler)
    with opened(tmp_path, storage) as alive:
        (after,) = alive.take(1, 5, sampler)
        assert (after.number, after.params) == (before.number, before.params)
        assert after.user_attrs[SWEEPER] == alive.me != before.user_attrs[SWEEPER]


@STORAGES
def test_a_trial_that_was_only_half_asked_for_is_completed(tmp_path, storage):
    with opened(tmp_path, storage) as cut:
        cut.study.sampler = sampler(0)
        half = {"x": SPACE.searched["x"]}  # killed after the first value, before it put its name
        asked = cut.study.ask(half)
        (trial,) = cut.take(1, 5, sampler)
        assert (trial.number, trial.params["x"]) == (0, asked.params["x"])
        assert trial.params["y"] in ("a", "b")
        assert trial.user_attrs[SWEEPER] == cut.me


def test_a_lock_that_nobody_holds_is_a_dead_process(tmp_path):
    with opened(tmp_path) as dead:
        dead.take(1, 5, sampler)
        name = dead.me
    lock = tmp_path / ".sweepers" / f"{name}.lock"
    with opened(tmp_path) as alive:
        with filelock.FileLock(lock):  # still living, for all that anybody can see
            assert [trial.number for trial in alive.take(1, 5, sampler)] == [1]
        assert lock.exists()  # as SIGKILL leaves it
        assert [trial.number for trial in alive.take(1, 5, sampler)] == [0]
        assert not lock.exists()


def test_failed_trials_count_and_are_tried_again_once_when_asked(tmp_path):
    with opened(tmp_path) as study:
        for trial in study.take(3, 3, sampler):
            failed = trial.number == 1
            state = TrialState.FAIL if failed else TrialState.COMPLETE
            study.tell(trial, state, None if failed else [0.5], None)
        assert study.take(3, 3, sampler) == []
        study.try_failed_again()
        study.try_failed_again()
        (again,) = study.take(3, 3, sampler)
        assert again.number == 3
        assert again.params == study.study.trials[1].params
        study.tell(again, TrialState.COMPLETE, [0.25], None)
        assert study.take(3, 3, sampler) == []
        assert [best.number for best in study.best()] == [3]


def test_the_best_of_several_objectives_are_those_that_none_beats(tmp_path):
    pruner = optuna.pruners.NopPruner()
    values = [[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]]
    directions = ["minimize", "minimize"]
    with SharedStudy.opened(tmp_path, "journal", SPACE, directions, pruner, {}) as study:
        assert study.best() == []
        for trial, value in zip(study.take(3, 3, sampler), values, strict=True):
            study.tell(trial, TrialState.COMPLETE, value, None)
        assert sorted(best.number for best in study.best()) == [0, 1]


def test_another_study_is_refused(tmp_path):
    with opened(tmp_path, seed=1) as study:
        study.take(1, 1, sampler)
    with (
        pytest.raises(LabError, match="cannot go on with another seed: 1 is now 2"),
        opened(tmp_path, seed=2),
    ):
        pass
    wider = Space.of(Axes.parse({**AXES, "y": "a,b,c"}, {}, []))
    with (
        pytest.raises(LabError, match="y: this study searches"),
        opened(tmp_path, space=wider, seed=1),
    ):
        pass
    with pytest.raises(LabError, match=r"is in study\.journal"), opened(tmp_path, "sqlite", seed=1):
        pass


def test_an_interval_may_be_widened(tmp_path):
    with opened(tmp_path) as study:
        study.take(1, 1, sampler)
    wider = Space.of(Axes.parse({**AXES, "x": "interval(-1, 2)"}, {}, []))
    with opened(tmp_path, space=wider) as study:
        assert [trial.number for trial in study.take(2, 2, sampler)] == [0, 1]


def test_a_line_that_a_full_disk_cut_off_is_taken_back(tmp_path):
    with opened(tmp_path) as study:
        study.take(1, 2, sampler)
    path = tmp_path / "study.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker')
    with opened(tmp_path) as study:
        assert [trial.number for trial in study.take(2, 2, sampler)] == [0, 1]
    assert path.read_bytes().startswith(whole)
    assert b"worker{" not in path.read_bytes()


@STORAGES
def test_a_job_reports_each_step_once_however_often_it_starts(tmp_path, storage):
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    with opened(tmp_path, storage) as study:
        first, second = study.take(2, 2, sampler)
        good = TrialInTraining(str(study.path), first.number, pruner)
        for step in (10, 20):
            good.report(1.0, step)
        study.tell(first, TrialState.COMPLETE, [1.0], None)

        bad = TrialInTraining(str(study.path), second.number, pruner)
        bad.report(2.0, 10)
        resumed = TrialInTraining(str(study.path), second.number, pruner)
        assert resumed.steps == {10}
        resumed.report(2.0, 10)  # an error or a warning, were it handed on
        assert resumed.is_hopeless()
        study.tell(second, TrialState.PRUNED, None, None)
    (_, pruned) = optuna.load_study(study_name=NAME, storage=open_storage(study.path)).trials
    assert pruned.intermediate_values == {10: 2.0}
    assert pruned.value == 2.0


@pytest.mark.parametrize("directions", [["minimize"], ["maximize"], ["minimize", "minimize"]])
def test_a_seed_that_lived_where_another_diverged_is_not_the_best(tmp_path, directions):
    space = Space.of(Axes.parse({"x": "1,2", "seed": "1,2,3"}, {}, []))
    pruner = optuna.pruners.NopPruner()

    def grid(number: int) -> Grid:
        return Grid(space.grid(), seed=1)

    sign = -1 if directions == ["maximize"] else 1
    with SharedStudy.opened(tmp_path, "journal", space, directions, pruner, {}) as study:
        for trial in study.take(6, 6, grid):
            x, seed = int(trial.params["x"]), int(trial.params["seed"])
            if (x, seed) in ((1, 2), (2, 1)):  # of which the second is no divergence
                study.tell(trial, TrialState.FAIL, None, None, diverged=x == 1)
            else:
                values = [sign * float(x + seed / 10)] * len(directions)
                study.tell(trial, TrialState.COMPLETE, values, None)
        (best,) = study.best()
        assert best.params == {"x": "2", "seed": "2"}
        study.try_failed_again()
        for trial in study.take(6, 6, grid):  # now both live, as on another machine
            study.tell(trial, TrialState.COMPLETE, [sign * 9.0] * len(directions), None)
        (best,) = study.best()
        assert best.params == {"x": "1", "seed": "1"}


def a_database_of_something_else(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE studies (mine)")
        database.commit()


def scrambled(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xaa" * 8192 + content[12288:])


LINES = ["null", "[1]", "3", "{}", "words", '{"op_code": 99, "worker_id": "x"}', '{"op_code": 0}']
LINES += ['{"op_code": 4, "worker_id": "x", "study_id": 0, "distributions": {"a": "b"}}']
BAD_STUDIES = [
    *(("journal", lambda path, line=line: add_line(path, line)) for line in LINES),
    *(("journal", lambda path, text=text: path.write_bytes(text)) for text in (b"mine", b"\0\xff")),
    *(
        ("sqlite", lambda path, text=text: path.write_bytes(text))
        for text in (b"mine", b"\0" * 999)
    ),
    ("sqlite", lambda path: path.write_bytes(path.read_bytes()[:5000])),
    ("sqlite", scrambled),
    ("sqlite", lambda path: (path.unlink(), a_database_of_something_else(path))),
    *((storage, lambda path: (path.unlink(), path.mkdir())) for storage in FILES),
    *((storage, lambda path: (path.unlink(), os.mkfifo(path))) for storage in FILES),
    *((storage, lambda path: (path.unlink(), path.symlink_to(path.name))) for storage in FILES),
    *((storage, lambda path: (path.unlink(), path.symlink_to("/dev/null"))) for storage in FILES),
]


def add_line(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


@pytest.mark.parametrize(("storage", "damage"), BAD_STUDIES)
def test_a_study_that_is_something_else_is_refused_and_left_alone(tmp_path, storage, damage):
    with opened(tmp_path, storage) as study:
        study.take(1, 1, sampler)
    damage(study.path)
    before = study.path.read_bytes() if study.path.is_file() else study.path.lstat()
    with pytest.raises(LabError, match=str(study.path)) as refused, opened(tmp_path, storage):
        pass
    assert "\n" not in str(refused.value)
    assert before == (study.path.read_bytes() if study.path.is_file() else study.path.lstat())


@pytest.mark.parametrize("name", [".study.lock", ".sweepers", "study.journal.lock"])
def test_a_study_is_locked_by_no_file_elsewhere(tmp_path, name):
    folder, mine = tmp_path / "sweep", tmp_path / "mine"
    folder.mkdir()
    mine.write_text("mine")
    (folder / name).symlink_to(mine)
    with pytest.raises(LabError, match=f"{name} leads out of"), opened(folder):
        pass
    assert mine.read_text() == "mine"


def test_the_name_of_a_dead_process_is_no_path(tmp_path):
    (tmp_path / "mine.lock").touch()
    with opened(tmp_path) as study:
        (trial,) = study.take(1, 1, sampler)
        study.study._storage.set_trial_user_attr(trial._trial_id, SWEEPER, "../mine")
    with opened(tmp_path) as study:
        assert [trial.number for trial in study.take(1, 1, sampler)] == [0]
    assert (tmp_path / "mine.lock").exists()
