"""Sweeps by successive halving, trained: what goes on, what it cost, kills, failures."""

import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same_run
from small import train
from sweeps.conftest import records, small_sweep

from lmlab import cli
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.report.rungs_section import rungs_sections
from lmlab.sweeps.table.raced import Raced
from lmlab.sweeps.table.settings import load

HALVING = ["hydra/sweeper=halving", "model=bigram", "hydra.sweeper.factor=2", "eval.every=2"]
RATES = "optimizer.lr=1e-4,1e-3,1e-2,3e-2,1e-1,3e-1"

# Children begin with everything imported, so that a kill hits training and not the imports.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["lmlab.core.train", "lmlab.cli", "lmlab.sweeps.search.halving"])


@pytest.fixture
def halve(sweep_here, tmp_path):
    """halve("a", "key=values", …): a sweep in this process, its folder and what was printed."""

    def run(name: str, *words: str, status: int = 0) -> tuple[Path, str]:
        said = sweep_here(*HALVING, f"sweep.name={name}", *words, status=status)
        return tmp_path / "outputs/sweeps" / name, said

    return run


def stand(folder: Path) -> dict[str, tuple[Any, ...]]:
    """How each run of a sweep stands, but for what a clock decides."""
    return {
        name: (record["status"], record["step"], record["pause_at"], record["best"])
        for name, record in records(folder).items()
    }


def steps(folder: Path) -> list[int]:
    return sorted(record["step"] for record in records(folder).values())


def test_the_best_go_on_and_are_the_runs_that_never_paused(halve, tmp_path):
    words = ["optimizer.lr=1e-4,1e-3,1e-2,1e-1", "seed=1,2", "hydra.sweeper.synchronous=true"]
    folder, said = halve("a", *words)
    # 4 settings at step 2, 2 at step 4, 1 at step 8, and that one at the end; each with both seeds.
    assert steps(folder) == 4 * [2] + 2 * [4] + 2 * [12]
    assert "4 settings, 8 runs: the best 1/2 of each rung go on from step 2, 4, 8" in said
    table = load([folder])
    assert list(table.settings["status"]) == ["2 done", *3 * ["2 paused"]]
    assert table.settings["best val/loss"].notna().all()
    saved = (
        "4 paused at step 2, 2 paused at step 4, 2 came to the end; "
        "40 of the 96 steps of all runs to their ends (42%)"
    )
    assert saved in leaderboard(table).notes
    assert saved in " ".join(said.split())
    assert " · about " not in said  # who goes on is not known yet
    (section,) = rungs_sections(table)
    cells = [column.cells for column in section.columns[:5]]
    assert cells[0] == ["2", "4", "12"]
    assert cells[1:3] == [["4", "2", "1"], ["8", "4", "2"]]
    assert cells[3:] == [["16", "8", "16"], ["40%", "20%", "40%"]]

    best = RunDirectory(Path(table.settings["directory"][1]))
    whole = train({**best.config, "run_dir": str(tmp_path / "whole")})
    assert_same_run(whole, best)

    other = next(n for n, (status, *_) in stand(folder).items() if status == "paused")
    before = stand(folder)
    _, said = halve("a", *words)
    assert "nothing is left to train" in said
    assert stand(folder) == before
    train({**RunDirectory(folder / other).config, "run": str(folder / other)})
    assert stand(folder)[other][:2] == ("done", 12)


@pytest.mark.slow
def test_asynchronously_with_axes_that_go_together_and_depend(halve):
    mix = "mix=zip(data.val_fraction=[0.1,0.2],trainer.gradient_clip_val=[1.0,0.5])"
    named = ["sweep=optimizers", "hydra/launcher=basic", "optimizer=sgd", "seed=1"]
    folder, _ = halve("a", *named, mix)
    swept = [record["swept"] for record in records(folder).values()]
    assert len({one["optimizer.lr"] for one in swept}) == 5
    assert {one["data.val_fraction"] for one in swept} == {0.1, 0.2}
    assert steps(folder).count(2) >= 5
    assert steps(folder).count(12) >= 1


@pytest.mark.slow
def test_settings_drawn_from_a_space(halve):
    space = ["optimizer.lr=tag(log, interval(1e-4, 1))", "seed=1,2", "hydra.sweeper.n_drawn=3"]
    space += ["logger.tensorboard=false"]
    folder, said = halve("a", *space)
    assert "3 settings, 6 runs" in said
    rates = {record["swept"]["optimizer.lr"] for record in records(folder).values()}
    assert len(rates) == 3
    assert {record["swept"]["seed"] for record in records(folder).values()} == {1, 2}
    assert steps(folder)[-2:] == [12, 12]


@pytest.mark.slow
def test_a_setting_that_fails_goes_no_further_and_is_tried_again(halve, tmp_path):
    model = ["++model._target_=misbehaving.Misbehaving", "++model.how=no,raise"]
    words = [*model, "++model.after=1", "optimizer.lr=1e-2,1e-1"]
    folder, said = halve("a", *words, status=2)
    runs = records(folder)
    assert {runs[name]["status"] for name in runs if "how=raise" in name} == {"failed"}
    assert steps(folder) == [0, 0, 4, 12]
    assert "2 of 8 jobs failed" in said
    _, said = halve("a", *words, status=2)
    assert "2 of 2 jobs failed" in said


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["hydra.sweeper.min_steps=3"],
            "min_steps=3: rungs are at evaluations, so give a multiple",
        ),
        (["trainer.max_steps=8,12"], "rungs are at the same steps for all"),
        (["sweep.wait=false"], "halving learns from its results"),
        (["pause_at=3"], "pause_at: hydra/sweeper=halving says where each run pauses"),
        (["+hydra.sweeper.params.pause_at=4"], "pause_at: hydra/sweeper=halving says"),
        (["logger.csv=false", "logger.tensorboard=false"], "ranks runs by their metrics.csv"),
        (["~logger.csv"], "hydra/sweeper=halving ranks runs by their metrics.csv"),
        (["model=ngram"], "lmlab.models.ngram.NGram counts and takes no steps"),
        (["seed=1", "sweep.race.first=2"], "settings race by the same seeds, two or more"),
        (["hydra.sweeper.factor=1"], "hydra.sweeper.factor=1: input should be greater than"),
        (["optimizer.lr=interval(0,1)"], "hydra.sweeper.n_drawn"),
    ],
)
def test_what_is_refused(halve, words, problem):
    folder, said = halve("a", "seed=1,2", *words, status=2)
    assert problem in said
    assert not folder.exists()


@pytest.mark.slow
def test_what_halving_leaves_races_for_the_other_seeds(halve):
    words = ["optimizer.lr=1e-4,1e-2,1e-1,3e-1", "seed=1,2,3", "sweep.race.first=2"]
    folder, said = halve("a", *words, "trainer.max_steps=4", "hydra.sweeper.synchronous=true")
    # Two seeds of four settings at step 2; of the two that go on, to the end, and what decides.
    assert "4 settings, 8 runs" in said
    assert steps(folder).count(2) == 4
    raced = Raced.read(folder)
    assert raced is not None
    assert len(raced.rows) == 2
    assert len(records(folder)) == 8 + raced.n_runs - 4 + 2
    assert "on fresh seeds 4, 5" in said


def _sweep(folder: Path, words: list[str]) -> None:
    os.chdir(folder)
    sys.argv = ["train", *words]
    cli.train()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["true", "false"])
def test_killed_anywhere_it_decides_the_same(halve, text, tmp_path, how):
    words = [RATES, "seed=1,2", f"hydra.sweeper.synchronous={how}", "data.steps_per_batch=1"]
    whole, _ = halve("a", *words)
    chance = random.Random(1)
    folder, command = tmp_path / "outputs/sweeps/b", [*small_sweep(text), *HALVING, *words]
    started: dict[str, str] = {}
    for _ in range(12):
        child = processes.Process(target=_sweep, args=(tmp_path, [*command, "sweep.name=b"]))
        child.start()
        child.join(chance.uniform(1, 4))
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        for name, record in records(folder).items():
            assert started.setdefault(name, record["started"]) == record["started"]
        if child.exitcode == 0:
            break
    halve("b", *words)
    assert stand(folder) == stand(whole)


@pytest.mark.slow
def test_places_that_are_free_take_the_next(halve):
    folder, _ = halve("a", RATES, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert len(steps(folder)) == 6
    assert steps(folder)[-1] == 12
    assert sum(steps(folder)) < 6 * 12
