"""The links to the best runs that a board is opened on."""

from pathlib import Path

import pytest
from sweeps.made import made

from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.board_command import Selection
from lmlab.sweeps.report.report import report

CURVE = {10: 3.0, 20: 2.5}


def linked(selection: Selection) -> set[str]:
    """What the links lead to, below the folder that is looked at."""
    found = [path for path in selection.links.rglob("*") if path.is_symlink()]
    assert all(path.is_dir() for path in found)
    return {str(path.resolve().relative_to(selection.folder)) for path in found}


def test_the_best_are_those_of_the_leaderboard_and_follow_it(tmp_path):
    names = {}
    for i, model in enumerate(["a", "b", "c"]):
        for seed in (1, 2):
            swept = {"model": model, "seed": seed}
            names[model, seed] = made(tmp_path, swept, 2.0 + i + 0.1 * seed, curve=CURVE).name
    made(tmp_path, {"model": "d", "seed": 1}, None, "failed")
    diverged = made(tmp_path, {"model": "e", "seed": 1}, float("nan"))
    report(tmp_path, plots=False)
    with Selection(tmp_path, top=3) as selection:
        means = {f"_seed-mean/model={model}" for model in "abc"}
        best = {names["a", 1], names["a", 2], names["b", 1]}
        assert linked(selection) == best | means
        assert selection.summary == (
            "the best 3 of 8 runs by val/loss_full, and the mean over seeds of 3 settings"
        )
        metrics = RunDirectory(tmp_path / names["c", 2]).record["metrics"]
        RunDirectory(tmp_path / names["c", 2]).update(metrics={**metrics, "val/loss_full": 1.0})
        selection.update()
        assert linked(selection) == {names["c", 2], names["a", 1], names["a", 2]} | means
        (tmp_path / names["a", 1] / "run.json").unlink()
        selection.update()
        assert names["a", 1] not in linked(selection)
        links = selection.links
    assert not links.exists()
    assert diverged.is_dir()


def test_no_more_runs_than_are_ticked_are_shown(tmp_path):
    for model in range(40):
        for seed in (1, 2):
            made(tmp_path, {"model": f"m{model:02}", "seed": seed}, 2.0 + model, curve=CURVE)
    report(tmp_path, plots=False)
    with Selection(tmp_path, top=10) as selection:
        shown = linked(selection)
        assert len(shown) == 40
        means = {f"_seed-mean/model=m{model:02}" for model in range(30)}
        assert means <= shown
        assert "the mean over seeds of 30 of 40 settings" in selection.summary


def test_a_folder_of_several_sweeps_has_the_means_of_each(tmp_path):
    for sweep, loss in (("one", 2.0), ("two", 3.0)):
        for seed in (1, 2):
            made(tmp_path / sweep, {"model": "a", "seed": seed}, loss + seed / 10, curve=CURVE)
        made(tmp_path / sweep, {"model": "b", "seed": 1}, 9.0)
        report(tmp_path / sweep, plots=False)
    with Selection(tmp_path, top=2) as selection:
        shown = linked(selection)
    assert {path for path in shown if "_seed-mean" in path} == {
        "one/_seed-mean/model=a",
        "two/_seed-mean/model=a",
    }
    assert {Path(path).parts[0] for path in shown if "_seed-mean" not in path} == {"one"}


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(LabError, match="holds no run"):
        Selection(tmp_path, top=3)
