"""A seed that diverges takes the mean away, wherever seeds are folded."""

import csv
import html
import json
import math
import re
from pathlib import Path

import pytest
from small import SMALL
from sweeps.drawn import rows, words
from sweeps.made import made

from lmlab.handles import Sweep
from lmlab.sweeps.command import main
from lmlab.sweeps.compare.differences import compare
from lmlab.sweeps.compare.equal import at_point, parse_at, to_loss
from lmlab.sweeps.compare.scaling import points_of
from lmlab.sweeps.journal.journal import Event
from lmlab.sweeps.launch.progress import Progress
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.report.verdicts import notes_on, verdicts
from lmlab.sweeps.table.curves import averaged, mean_curves, read_curves, shared_steps
from lmlab.sweeps.table.settings import METRICS, load

BECAME = "the loss became nan at step 31 (last finite loss 9.1, learning rate 2); try a smaller"
# How a record says that its run diverged: today, in a job of a sweep, and before it was a field.
SAYS = [
    {"error": f"DivergedError: {BECAME}", "diverged": True},
    {"error": f"LabError: {BECAME}"},
    {"error": "LabError: val/loss became inf at step 40 (last loss of training 3.0); try"},
    {"error": "weights became infinite or NaN by step 50, before the loss showed it; try"},
]
CURVE = {0: 4.0, 10: 3.0, 20: 2.5}
LATER = {40: 2.0, 60: 1.5, 100: 1.2}


def diverging(folder: Path, n_diverged: int = 5, n: int = 6, curve: bool = True, **swept) -> None:
    """A setting of which some seeds diverged and the others are better than all else."""
    swept = swept or {"model": "wild"}
    for seed in range(1, n + 1):
        keys = {**swept, "seed": seed}
        cost = {"tokens": 1000, "flops": 5000, "parameters": 100}
        if seed > n - n_diverged:
            part = {k: v // 5 for k, v in cost.items() if k != "parameters"} | {"parameters": 100}
            says = SAYS[seed % len(SAYS)]
            curve_of = CURVE if curve else None
            made(folder, keys, 2.5, "failed", curve_of, step=20, **part, **says)
        else:
            made(folder, keys, 1.0 + seed / 100, curve=CURVE | LATER, **cost)


def steady(folder: Path, loss: float = 2.0, n: int = 6, **swept) -> None:
    """A setting whose seeds all live."""
    for seed in range(1, n + 1):
        curve = {step: x + loss - 1 + seed / 100 for step, x in (CURVE | LATER).items()}
        cost = {"tokens": 1000, "flops": 5000, "parameters": 100}
        keys = {**(swept or {"model": "good"}), "seed": seed}
        made(folder, keys, loss + seed / 100, curve=curve, **cost)


@pytest.fixture
def two(tmp_path) -> Path:
    diverging(tmp_path)
    steady(tmp_path)
    return tmp_path


@pytest.mark.parametrize("metric", METRICS)
def test_it_has_no_mean_and_no_place_before_those_whose_seeds_all_live(two, metric):
    table = load([two], metric)
    assert list(table.settings["model"]) == ["good", "wild"]
    assert list(table.settings["status"]) == ["6 done", "5 of 6 diverged"]
    assert list(table.settings["diverged"]) == [0, 5]
    for name in METRICS:
        assert table.settings[name].isna().tolist() == [False, True]
        assert table.settings[f"{name} sd"].isna().tolist() == [False, True]
    assert table.best == 1
    only = load([diverged_alone(two / "alone")], metric)
    assert only.best is None


def diverged_alone(folder: Path) -> Path:
    diverging(folder, 1, 2)
    return folder


@pytest.mark.parametrize("says", SAYS)
def test_every_way_to_say_so_is_understood(tmp_path, says):
    made(tmp_path, {"model": "a", "seed": 1}, 1.0)
    made(tmp_path, {"model": "a", "seed": 2}, 2.5, "failed", **says)
    made(tmp_path, {"model": "b", "seed": 1}, 1.0)
    made(tmp_path, {"model": "b", "seed": 2}, 2.5, "failed", error="RuntimeError: out of memory")
    made(tmp_path, {"model": "c", "seed": 1}, 1.0)
    made(tmp_path, {"model": "c", "seed": 2}, 2.5, "killed", **says)  # it went on, and was killed
    settings = load([tmp_path]).settings.set_index("model")
    assert dict(settings["status"]) == {
        "a": "1 of 2 diverged",
        "b": "1 done, 1 failed",
        "c": "1 done, 1 killed",
    }
    assert dict(settings["val/loss_full"].dropna()) == {"b": 1.0, "c": 1.0}


def test_a_seed_that_was_run_again_is_as_its_newest_run(tmp_path):
    for model, order in (("lives", (False, True)), ("dies", (True, False))):
        made(tmp_path, {"model": model, "seed": 1}, 2.0)
        for lives in order:
            keys = {"model": model, "seed": 2}
            made(tmp_path, keys, 2.0) if lives else made(tmp_path, keys, 2.0, "failed", **SAYS[0])
    made(tmp_path, {"model": "dies", "seed": 3}, None, "running")
    table = load([tmp_path])
    status = dict(table.settings.set_index("model")["status"])
    assert status == {"lives": "2 done, 1 failed", "dies": "1 of 2 diverged, 1 killed"}
    assert table.settings["n"].tolist() == [2, 1]


def test_every_report_says_it(two, capsys):
    steady(two, 2.5, model="fair")
    main([str(two), "--at", "15steps", "--at", "80steps", "--to", "2.2", "--write"])
    said = " ".join(capsys.readouterr().out.split())
    row = "wild nan 1.5 s 5 of 6 diverged"
    assert row in said.replace("  ", " ")
    assert "a setting has no mean: a seed diverged" in said
    for name in ("leaderboard.md", "report.html"):
        page = html.unescape((two / name).read_text())
        assert page.count("5 of 6 diverged") == 1 + 4  # the leaderboard, and the comparisons
        assert "1.0100" not in page
    with (two / "leaderboard.csv").open(newline="") as file:
        good, _, wild = csv.DictReader(file)
    assert (good["model"], wild["model"]) == ("good", "wild")
    assert (wild["val/loss_full"], wild["val/loss_full sd"]) == ("nan", "")
    assert (wild["best val/loss"], wild["n"], wild["status"]) == ("", "1", "5 of 6 diverged")
    with (two / "differences.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "wild"]
    why = {row["quantity"]: row["why"] for row in rows}
    assert why == {
        "val/loss_full": "5 of 6 diverged",
        "val/loss at 15 steps": "",
        "val/loss at 80 steps": "5 of 6 diverged",
        "steps to val/loss 2.2": "5 of 6 diverged",
        "seconds to val/loss 2.2": "6 of 6 did not reach it",
        "FLOPs to val/loss 2.2": "5 of 6 diverged",
    }


@pytest.mark.parametrize("metric", METRICS)
def test_it_is_not_compared(two, metric):
    found = compare(load([two], metric))
    rows = found.settings
    assert found.baseline == 1
    assert rows["why"][2] == "5 of 6 diverged"
    assert math.isnan(rows["value"][2])
    assert rows["pairs"][2] == 0
    assert not any("left out" in note for note in notes_on(found))
    named = compare(load([two], metric), baseline=2)
    assert named.settings["why"].tolist() == ["", "5 of 6 diverged"]
    assert named.settings["difference"].isna().all()


def test_at_a_point_that_all_seeds_have_reached_it_is_compared(two):
    table = load([two])
    before = compare(table, measured=at_point(table, parse_at("15steps")))
    assert before.settings["pairs"].tolist() == [0, 6]
    assert before.settings["value"][2] == pytest.approx(2.75)
    notes_on(before)
    assert (
        compare(table, measured=at_point(table, parse_at("30steps"))).settings["why"][2]
        == "5 of 6 diverged"
    )
    for unit in ("tokens", "flops"):
        a_step = {"tokens": 10, "flops": 50}[unit]
        assert compare(table, measured=at_point(table, parse_at(f"{15 * a_step}{unit}"))).settings[
            "value"
        ][2] == pytest.approx(2.75)
    assert compare(table, measured=to_loss(table, 2.75, "steps")).settings["value"][2] == 15
    assert (
        compare(table, measured=to_loss(table, 1.5, "steps")).settings["why"][2]
        == "5 of 6 diverged"
    )


def test_python_has_the_same(two):
    sweep = Sweep(two)
    assert sweep.table()["val/loss_full"].isna().tolist() == [False, True]
    assert sweep.table()["status"].tolist() == ["6 done", "5 of 6 diverged"]
    assert sweep.differences()["why"].tolist() == ["", "5 of 6 diverged"]
    assert sweep.run_table()["diverged"].sum() == 5


def mean_steps(folder: Path) -> list[dict[str, list[int]]]:
    """The steps of the mean curves, by tag, of the settings that have any, the best first."""
    curves = mean_curves(averaged(load([folder]).runs))
    return [
        {tag: [step for step, _ in points] for tag, points in of_setting.items()}
        for _, of_setting in sorted(curves.items())
    ]


@pytest.mark.parametrize("n_diverged", [1, 5])
def test_its_mean_curve_ends_where_the_first_seed_does(tmp_path, n_diverged):
    diverging(tmp_path, n_diverged)
    steady(tmp_path)
    good, wild = mean_steps(tmp_path)
    assert set(wild) == {"val/loss", "± sd/val/loss above", "± sd/val/loss below"}
    assert all(steps == [0, 10, 20] for steps in wild.values())
    assert good["val/loss"] == [0, 10, 20, 40, 60, 100]
    points = rows(leaderboard(load([tmp_path])).figures["curves"], "steps", "mean")
    seen = [(p["line"], p["steps"]) for p in points if p["mean"] is not None]
    assert [max(step for line, step in seen if line == i) for i in (0, 1)] == [100, 20]


def test_without_a_curve_of_a_seed_that_diverged_there_is_none_of_the_others(tmp_path):
    diverging(tmp_path, 2, curve=False)
    steady(tmp_path)
    _, wild = mean_steps(tmp_path)
    assert "val/loss" not in wild
    table = load([tmp_path])
    shared = shared_steps(read_curves(table.runs, ["val/loss"]), "val/loss")
    assert set(shared["setting"]) == {1}


def test_no_picture_has_a_mean_of_it(tmp_path):
    for lr, n_diverged in ((0.1, 0), (0.5, 0), (2.0, 5)):
        for width in (16, 32):
            keys = {"optimizer.lr": lr, "model.n_embd": width}
            if n_diverged:
                diverging(tmp_path, n_diverged, **keys)
            else:
                steady(tmp_path, 2.0 + lr, **keys)
    for path in tmp_path.glob("*/run.json"):
        record = json.loads(path.read_text())
        record["parameters"] = record["swept"]["model.n_embd"] * 100
        path.write_text(json.dumps(record))
    table = load([tmp_path])
    figures = leaderboard(table).figures | verdicts(compare(table)).figures
    wanted = {"loss-by-optimizer.lr", "rate-by-width", "loss-by-parameters"}
    assert wanted <= figures.keys()
    for name in wanted:
        losses = [row["loss"] for row in rows(figures[name], "loss", "at") if row["loss"]]
        assert len(losses) >= 4
        assert not [loss for loss in losses if 1.0 <= loss < 1.9], name
    cells = [row["text"] for row in rows(figures["heat-map"], "text")]
    assert cells.count("failed") == 2
    assert "1.010" not in cells


def test_the_seeds_of_one_setting_are_drawn_with_those_that_diverged(tmp_path):
    diverging(tmp_path, 2)
    chart = leaderboard(load([tmp_path])).figures["loss-by-seed"]
    assert "val/loss_full by seed" in words(chart)
    assert "2 of 6 diverged" in words(chart)
    assert [row["is_lost"] for row in rows(chart, "at", "is_lost")] == [False] * 4 + [True] * 2


def test_a_law_has_no_point_of_it(tmp_path):
    sizes = {"parameters_inside": 64}
    for seed in (1, 2):
        made(tmp_path, {"lr": 1, "seed": seed}, 2.0, tokens=10, parameters=99, **sizes)
    made(tmp_path, {"lr": 2, "seed": 1}, 1.0, tokens=10, parameters=99, **sizes)
    made(tmp_path, {"lr": 2, "seed": 2}, 1.0, "failed", tokens=5, parameters=99, **SAYS[0])
    made(tmp_path, {"lr": 3, "seed": 1}, 1.0, tokens=20, parameters=99, **sizes)
    made(tmp_path, {"lr": 3, "seed": 2}, math.nan, tokens=20, parameters=99, **sizes)
    points, remarks = points_of(load([tmp_path]))
    assert points["loss"].tolist() == [2.0]
    assert remarks == [
        "left out: 1 failed",
        "left out: 3 in settings with a seed that diverged",
    ]


def test_activations_are_averaged_over_all_seeds_or_not_at_all(tmp_path):
    tag = "activations/blocks.1.attention"
    for width in (16, 32):
        for seed, steps in ((1, (0, 1, 2)), (2, (0, 1))):
            status = {} if seed == 1 else {"status": "failed", **SAYS[0]}
            path = made(tmp_path, {"model.n_embd": width, "seed": seed}, 2.0, **status)
            lines = [f"{step},{width * seed}" for step in steps]
            (path / "metrics.csv").write_text("\n".join([f"step,{tag}", *lines, ""]))
    chart = leaderboard(load([tmp_path])).figures["activations-by-width"]
    assert {row["step"] for row in rows(chart, "step", "size")} == {0, 1}


def test_the_progress_line_names_no_seed_that_lived_by_luck():
    progress = Progress(total=6)
    progress.update(Event(0, "done", 1.0, run="a/wild-1", loss=1.0, trained=True, setting="wild"))
    progress.update(Event(1, "done", 1.0, run="a/good-1", loss=2.0, trained=True, setting="good"))
    assert "best 1.0000 (wild-1)" in progress.line()
    progress.update(Event(2, "failed", 1.0, run="a/wild-2", setting="wild", diverged=True))
    progress.update(Event(3, "failed", 1.0, run="a/good-2", setting="good"))  # by a crash
    assert "best 2.0000 (good-1)" in progress.line()
    progress.update(Event(4, "failed", 1.0, run="a/good-3", setting="good", diverged=True))
    assert "best" not in progress.line()


DOOMED = ["model._target_=misbehaving.Doomed", "eval.every=2", "trainer.max_steps=6"]


@pytest.mark.slow
def test_a_sweep_with_seeds_that_diverge_from_training_to_the_report(lab, text):
    words = [*SMALL, *DOOMED, "corpus=file", f"corpus.path={text}", "data.steps_per_batch=1"]
    words += ["seed=range(1,7)", "+model.after=4,100", "sweep.name=doomed"]
    status, out, err = lab("train", "-m", *words)
    assert status == 2, err
    folder = Path("outputs/sweeps/doomed")
    records = [json.loads(path.read_text()) for path in folder.glob("*/run.json")]
    lost = [record for record in records if record.get("diverged")]
    assert 0 < len(lost) < 6
    assert {(r["status"], r["swept"]["model.after"]) for r in lost} == {("failed", 4)}
    assert all("became nan" in record["error"] for record in lost)
    table = Sweep(folder).table()
    assert table["model.after"].tolist() == [100, 4]
    assert table["status"].tolist() == ["6 done", f"{len(lost)} of 6 diverged"]
    assert f"{len(lost)} of 6 diverged" in out
    assert "after=100" in re.findall(r"· best \S+ \((\S+)\)", out)[-1]
    assert mean_steps(folder)[1]["val/loss"] == [0, 2, 4]


def test_one_that_goes_on_is_no_longer_a_seed_that_diverged(lab, text):
    words = [*SMALL, *DOOMED, "corpus=file", f"corpus.path={text}", "+model.always=true"]
    status, _, err = lab("train", *words, "run_dir=mine")
    assert (status, "became nan" in err) == (2, True)
    record = json.loads(Path("mine/run.json").read_text())
    assert (record["status"], record["diverged"]) == ("failed", True)
    status, _, err = lab("train", "run=mine", "trainer.max_steps=x")
    assert status == 2
    status, _, err = lab("train", "run=mine")
    assert (status, "became nan" in err) == (2, True)
