"""Which settings differ, by how much, and whether that is more than the noise of seeds."""

import csv
import math
import re
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, ttest_rel
from sweeps.drawn import labels, rows, words
from sweeps.made import made
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lmlab.sweeps.command import main
from lmlab.sweeps.compare.differences import Measured, compare, setting_named
from lmlab.sweeps.compare.equal import at_point, parse_at, to_loss
from lmlab.sweeps.compare.paired import holm, paired, pairs_needed
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.report.verdicts import marks, notes_on, notes_on_marks, verdicts
from lmlab.sweeps.report.written import markdown
from lmlab.sweeps.table.settings import load

A = [2.2691, 2.2803, 2.2579, 2.2611, 2.2750, 2.2634, 2.2715]
B = [2.2650, 2.2790, 2.2601, 2.2577, 2.2699, 2.2640, 2.2702]
SAMPLES = [(A, B), ([2.31, 2.35, 2.29, 2.40], [2.33, 2.36, 2.33, 2.41]), ([1.5, 1.7], [1.4, 1.5])]


@pytest.mark.parametrize(("a", "b"), SAMPLES)
def test_the_paired_test_agrees_with_scipy(a, b):
    found, expected = paired(a, b), ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    said = [found.p, found.low, found.high]
    assert said == pytest.approx([expected.pvalue, interval.low, interval.high], rel=1e-9)
    # Through two points there always is a line.
    assert math.isnan(found.r) if len(a) == 2 else found.r == pytest.approx(pearsonr(a, b)[0])
    assert (found.n, found.mean) == (len(a), pytest.approx(np.mean(a) - np.mean(b)))
    assert found.deviation == pytest.approx(statistics.stdev(np.subtract(a, b)))


@pytest.mark.parametrize(("ratio", "n"), [(0.5, 5), (1, 10), (2, 34), (4, 128)])
def test_seeds_needed_are_those_of_the_noncentral_distribution(ratio, n):
    """The smallest n at which scipy.stats.nct has 80 % of its weight beyond the critical t."""
    assert pairs_needed(ratio, 1) == n
    assert pairs_needed(ratio * 0.01, -0.01) == n
    assert pairs_needed(ratio, 1, level=0.01) > n


def test_seeds_needed_where_nothing_can_be_divided():
    assert pairs_needed(0.0, 0.1) == 2
    assert pairs_needed(0.0, 0.0) is None
    assert pairs_needed(0.1, 0.0) is None
    assert pairs_needed(math.nan, 0.1) is None
    assert pairs_needed(1e6, 1e-6) is None
    assert pairs_needed(1e300, 1e-300) is None


def test_holm_is_the_step_down():
    assert holm([0.03, 0.01, 0.02, 0.5]) == pytest.approx([0.06, 0.04, 0.06, 0.5])
    assert holm([0.9, 0.6]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


LOSS = st.integers(10_000, 50_000).map(lambda n: n / 10_000)
PAIRS = st.lists(st.tuples(LOSS, LOSS), min_size=2, max_size=8)


@given(PAIRS, st.lists(LOSS, min_size=8, max_size=8))
def test_what_is_added_to_both_runs_of_a_seed_changes_nothing(pairs, noise):
    a, b = zip(*pairs, strict=True)
    found = paired(a, b)
    shifted = paired(*([x + n for x, n in zip(of, noise, strict=False)] for of in (a, b)))
    for name in ("mean", "deviation", "low", "high", "p"):
        assert getattr(shifted, name) == pytest.approx(getattr(found, name), abs=1e-9)


@given(PAIRS)
def test_differences_the_other_way_round_have_the_other_sign(pairs):
    a, b = zip(*pairs, strict=True)
    there, back = paired(a, b), paired(b, a)
    assert there.mean == -back.mean
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == pytest.approx(back.p)
    assert there.r == pytest.approx(back.r, nan_ok=True)
    assert there.low <= there.mean <= there.high
    covers_zero = there.low <= 0 <= there.high
    assert covers_zero == (there.p >= 0.05) or there.p == pytest.approx(0.05)


@pytest.mark.parametrize("shift", [0.0, 0.125, 0.1])
def test_equal_differences_divide_by_nothing(shift):
    """0.1 leaves rounding in the differences, which is no noise."""
    found = paired([2.0 + shift, 2.7 + shift, 3.1 + shift], [2.0, 2.7, 3.1])
    assert found.p == (1 if shift == 0 else 0)
    assert found.low == found.high == pytest.approx(shift)
    assert found.r == pytest.approx(1)
    assert math.isnan(paired([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]).r)


def test_few_pairs_give_what_they_can():
    assert paired([], []).n == 0
    one = paired([2.5], [2.0])
    assert (one.n, one.mean) == (1, 0.5)
    assert all(math.isnan(x) for x in (one.deviation, one.low, one.high, one.p, one.r))


def test_what_overflows_is_not_tested():
    found = paired([1e308, 1.7e308, 1e308], [-1e308, -1.7e308, 2.0])
    assert math.isinf(found.mean)
    assert math.isnan(found.p)


def sweep(folder: Path, losses: dict[str, dict[int, float]], **more):
    """A table of runs: for each model the loss of each seed."""
    for model, of_seeds in losses.items():
        for seed, loss in of_seeds.items():
            made(folder, {"model": model, "seed": seed}, loss, **more)
    return load([folder])


def by_model(found) -> pd.DataFrame:
    """The rows of a comparison, by model."""
    return found.settings.set_axis(found.table.settings["model"][found.settings.index])


NOISE = [0.05, -0.03, 0.01, -0.04]
CLOSE = [0.002, -0.003, 0.001, 0.0005]


@pytest.fixture
def close(tmp_path):
    """b is 0.02 above a beyond any doubt once paired; c is a, but for noise; d is far off."""
    seeds = dict(enumerate(NOISE, 1))
    return sweep(
        tmp_path,
        {
            "a": {s: 2.0 + x for s, x in seeds.items()},
            "b": {s: 2.02 + x + y for (s, x), y in zip(seeds.items(), CLOSE, strict=True)},
            "c": {s: 2.001 + x + 3 * y for (s, x), y in zip(seeds.items(), CLOSE, strict=True)},
            "d": {s: 3.0 - x for s, x in seeds.items()},
        },
    )


def test_pairing_tells_what_the_deviations_hide(close):
    rows = by_model(compare(close))
    assert rows["value sd"]["a"] > 0.02  # more than the difference
    assert rows["difference"]["b"] == pytest.approx(0.02 + statistics.mean(CLOSE))
    test = paired([2.02 + x + y for x, y in zip(NOISE, CLOSE, strict=True)], [2 + x for x in NOISE])
    assert rows["p"]["b"] == pytest.approx(test.p)
    assert rows["r"]["b"] > 0.99
    assert rows["r"]["d"] == pytest.approx(-1)
    others = rows.drop("a")
    assert list(others["p holm"]) == pytest.approx(holm(list(others["p"])))
    assert marks(compare(close)) == {2: "≈"}  # c


def test_a_named_baseline_turns_the_signs(close):
    to_a, to_b = by_model(compare(close)), by_model(compare(close, baseline=3))
    assert close.settings["model"][3] == "b"
    assert to_b["difference"]["a"] == pytest.approx(-to_a["difference"]["b"])
    assert to_b["low"]["a"] == pytest.approx(-to_a["high"]["b"])
    assert to_b["p"]["a"] == pytest.approx(to_a["p"]["b"])
    assert np.isnan(to_b["difference"]["b"])


def test_only_seeds_in_common_count_and_that_is_said(tmp_path):
    table = sweep(
        tmp_path,
        {
            "a": {1: 2.0, 2: 2.1, 3: 2.2},
            "b": {2: 2.6, 3: 2.8, 4: 9.0},
            "c": {3: 3.0, 5: 3.1},
            "d": {6: 4.0},
        },
    )
    found = compare(table)
    rows = by_model(found)
    assert dict(rows["pairs"]) == {"a": 0, "b": 2, "c": 1, "d": 0}
    assert rows["difference"]["b"] == pytest.approx(statistics.mean([2.6 - 2.1, 2.8 - 2.2]))
    assert rows["difference"]["c"] == pytest.approx(0.8)
    assert dict(rows["why"])["c"] == "one seed in common"
    assert dict(rows["why"])["d"] == "no seed in common"
    assert "seeds: only those count that a setting and the baseline both have" in notes_on(found)
    signs = {table.settings["model"][setting]: sign for setting, sign in marks(found).items()}
    assert signs == {"b": "≈", "c": "?", "d": "?"}


def test_one_seed_tells_nothing_and_that_is_said(tmp_path, capsys):
    sweep(tmp_path, {"a": {1: 2.0}, "b": {1: 2.5}})
    main([str(tmp_path)])
    said = capsys.readouterr().out
    assert "cannot be told: no setting shares two seeds or more with the best" in said
    assert "≈" not in said
    assert not (tmp_path / "differences.csv").exists()
    assert not list((tmp_path / "plots").glob("difference*"))


def test_one_setting_is_compared_with_nothing(tmp_path, capsys):
    table = sweep(tmp_path, {"a": {1: 2.0, 2: 2.1}})
    assert notes_on_marks(compare(table)) == []
    main([str(tmp_path), "--no-plots"])
    assert "≈" not in capsys.readouterr().out


def test_failed_runs_are_left_out_and_a_setting_that_diverged_is_not_compared(tmp_path):
    sweep(tmp_path, {"a": {1: 2.0, 2: 2.1, 3: 2.2}, "b": {1: 2.5, 2: 2.6}})
    made(tmp_path, {"model": "b", "seed": 3}, None, "failed", error="boom")
    for seed, loss in ((1, 1.0), (2, math.nan), (3, 1.0)):
        made(tmp_path, {"model": "c", "seed": seed}, loss)
    found = compare(load([tmp_path]))
    rows = by_model(found)
    assert found.baseline == 1
    assert rows["pairs"]["b"] == 2
    assert rows["why"]["c"] == "1 of 3 diverged"
    assert np.isnan(rows["value"]["c"])
    assert "left out: 1 failed" in notes_on(found)


def test_a_huge_loss_is_off_the_scale_and_no_draw(tmp_path):
    losses = {"a": {1: 2.0, 2: 2.1}, "b": {1: 2.02, 2: 2.11}, "wild": {1: 3.0, 2: 1e9}}
    found = compare(sweep(tmp_path, losses))
    assert by_model(found)["p"]["wild"] > 0.05
    assert marks(found) == {2: "≈"}
    drawn = rows(*verdicts(found).figures.values(), "place", "difference", "kind")
    assert [row["kind"] for row in drawn] == ["base", "shown", "off"]


@settings(max_examples=2)
@given(st.lists(st.tuples(LOSS, LOSS, LOSS), min_size=2, max_size=4), LOSS)
def test_a_seed_that_is_harder_for_all_changes_no_difference(tmp_path_factory, losses, harder):
    def rows(shift: float) -> pd.DataFrame:
        folder = tmp_path_factory.mktemp("sweep")
        names = {name: {s: of[i] + (shift if s == 0 else 0) for s, of in enumerate(losses)}
                 for i, name in enumerate("abc")}  # fmt: skip
        table = sweep(folder, names)
        return by_model(compare(table, baseline=setting_named(table, "model=a")))

    before, after = rows(0.0), rows(harder)
    for name in ("difference", "low", "high", "p", "p holm"):
        at = dict(before[name])
        assert dict(after[name]) == pytest.approx(at, abs=1e-6, nan_ok=True)


def test_values_of_any_kind_can_be_compared(close):
    values = close.runs["seed"].astype(float)  # the same in each setting
    found = compare(close, measured=Measured(values, "seed", "seeds"))
    assert set(found.compared["difference"]) == {0.0}
    assert set(found.compared["p"]) == {1.0}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model=a", ("a", 0.001)),  # the best of those
        ("model=b", ("b", 0.1)),
        ("model=a,optimizer.lr=1e-1", ("a", 0.1)),
        ("optimizer.lr=0.10,model=a", ("a", 0.1)),
    ],
)
def test_a_baseline_is_named_as_it_is_typed(tmp_path, text, named):
    for loss, (model, lr) in enumerate([("a", 0.001), ("b", 0.1), ("a", 0.1), ("b", 0.001)]):
        made(tmp_path, {"model": model, "optimizer.lr": lr, "betas": [0.9, lr]}, 2.0 + loss)
    table = load([tmp_path])
    row = table.settings.loc[setting_named(table, text)]
    assert (row["model"], row["optimizer.lr"]) == named
    by_list = table.settings.loc[setting_named(table, "betas=[0.9, 0.1],model=b")]
    assert (by_list["model"], by_list["optimizer.lr"]) == ("b", 0.1)


ERRORS = [
    (["--baseline", "modle=a"], "--baseline modle=a: the settings differ in model; did you mean"),
    (["--baseline", "a"], "the settings differ in model"),
    (["--baseline", "model=z"], "no setting has model=z; model is one of a, c, b, d"),
    (["--at", "30"], "--at 30: a number and its unit, 30s, 1000steps, 2e6tokens or 1e12flops"),
    (["--at", "1.5.2s"], "--at 1.5.2s: a number and its unit"),
    (["--at", "3hours"], "--at 3hours: a number and its unit"),
    (["--to", "nan"], "--to nan: a loss"),
    (["--to", "x"], "invalid number value"),
    (["--least", "0"], "--least 0: a difference of losses above zero"),
]


@pytest.mark.parametrize(("words", "said"), ERRORS)
def test_errors_are_one_line(close, tmp_path, capsys, words, said):
    with pytest.raises(SystemExit) as exit:
        main([str(tmp_path), "--no-plots", *words])
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def timed(path: Path, seconds: dict[int, float]) -> None:
    """Event files with train/seconds, as a run writes them."""
    writer = EventFileWriter(str(path))
    for step, value in seconds.items():
        at = Summary(value=[Summary.Value(tag="train/seconds", simple_value=value)])
        writer.add_event(Event(wall_time=1.0, step=step, summary=at))
    writer.close()


@pytest.fixture(params=["today", "an earlier lmlab"])
def curves(tmp_path, request):
    """fast falls by 0.1 in 10 steps or 1 s, slow in 20 steps or 4 s; 100 tokens a step.

    What that took stands in metrics.csv today; once it was in the record and in event files."""
    for model, steps, seconds in (("fast", 10, 1), ("slow", 20, 4)):
        for seed in (1, 2, 3):
            start = 4 + seed / 100
            curve = {i * steps: start - i / 10 for i in range(1, 6)}
            path = made(
                *(tmp_path, {"model": model, "seed": seed}, 2.0),
                curve=curve,
                step=5 * steps,
                tokens=500 * steps,
            )
            if request.param == "today":
                rows = [f"{s},{s // steps * seconds},{100 * s},{loss}" for s, loss in curve.items()]
                header = "step,seconds,tokens,val/loss"
                (path / "metrics.csv").write_text("\n".join([header, *rows, ""]))
            else:
                timed(path, {i * steps: i * seconds for i in range(1, 6)})
    return load([tmp_path])


@pytest.mark.parametrize(
    ("when", "fast", "slow"),
    [
        ("40steps", 3.62, 3.82),
        ("45steps", 3.57, 3.795),  # between two evaluations
        ("4000tokens", 3.62, 3.82),
        ("4s", 3.62, 3.92),
        ("4.5s", 3.57, 3.9075),
        ("50steps", 3.52, 3.77),  # the last evaluation
    ],
)
def test_losses_at_equal_steps_tokens_and_time(curves, when, fast, slow):
    rows = by_model(compare(curves, measured=at_point(curves, parse_at(when))))
    assert dict(rows["value"]) == pytest.approx({"fast": fast, "slow": slow})
    assert rows["difference"]["slow"] == pytest.approx(slow - fast)
    assert rows["pairs"]["slow"] == 3


@pytest.mark.parametrize(
    ("when", "why"), [("51steps", "fast"), ("15steps", "slow"), ("0s", "both")]
)
def test_beyond_the_curve_of_a_run_nothing_is_said(curves, when, why):
    found = compare(curves, measured=at_point(curves, parse_at(when)))
    rows = by_model(found)
    for model in ("fast", "slow"):
        is_lacking = why in (model, "both")
        assert np.isnan(rows["value"][model]) == is_lacking
        assert rows["why"][model].startswith("3 of 3 have no evaluations") == is_lacking
    assert not found.tested.any()


def test_steps_and_seconds_to_a_loss(curves):
    steps, seconds = (
        by_model(compare(curves, measured=to_loss(curves, 3.82, unit))) for unit in ("steps", "s")
    )
    assert dict(steps["value"]) == pytest.approx({"fast": 20, "slow": 40})
    assert dict(seconds["value"]) == pytest.approx({"fast": 2, "slow": 8})
    # Seed by seed: 3.81 + 0.1 is above, 3.83 - 0.01 below.
    assert steps["value sd"]["fast"] == pytest.approx(statistics.stdev([19, 20, 21]))
    assert seconds["difference"]["slow"] == pytest.approx(6)
    at_first = compare(curves, measured=to_loss(curves, 3.99, "steps"))
    assert dict(by_model(at_first)["value"]) == {"fast": 10, "slow": 20}
    assert any("by their first evaluation" in note for note in notes_on(at_first))


def test_a_loss_that_only_some_seeds_reach_has_no_mean(curves):
    rows = by_model(compare(curves, measured=to_loss(curves, 3.515, "steps")))
    assert set(rows["why"]) == {"2 of 3 did not reach it"}
    assert rows["value"].isna().all()
    found = compare(curves, measured=to_loss(curves, 1.0, "s"))
    assert found.baseline is None
    assert set(found.settings["why"]) == {"3 of 3 did not reach it"}


@pytest.mark.parametrize("curves", ["an earlier lmlab"], indirect=True)
def test_a_run_without_event_files_has_no_time_but_steps(curves, tmp_path):
    for path in tmp_path.glob("*/*tfevents*"):
        path.unlink()
    rows = by_model(compare(curves, measured=at_point(curves, parse_at("4s"))))
    assert set(rows["why"]) == {"3 of 3 have no evaluations around 4 s"}
    assert compare(curves, measured=at_point(curves, parse_at("40steps"))).tested.any()


def test_the_command_prints_and_keeps_what_was_asked(curves, tmp_path, capsys):
    words = ["--at", "4s", "--to", "3.82", "--baseline", "model=slow", "--least", "0.01"]
    main([str(tmp_path), *words, "--write"])
    said = capsys.readouterr().out
    titles = re.findall(r"^(.+), compared with model=slow$", said, re.M)
    assert titles == [
        "val/loss_full",
        "val/loss at 4 s",
        "steps to val/loss 3.82",
        "seconds to val/loss 3.82",
    ]
    with (tmp_path / "differences.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["quantity"] for row in rows] == [title for title in titles for _ in range(2)]
    assert {row["baseline"] for row in rows} == {"model=slow"}
    (fast,) = [r for r in rows if r["model"] == "fast" and r["quantity"] == "val/loss at 4 s"]
    assert float(fast["difference"]) == pytest.approx(-0.3)
    page = (tmp_path / "leaderboard.md").read_text()
    assert page.count("compared with model=slow\n") == 4
    assert "-0.3000" in page
    kept = {path.name for path in (tmp_path / "plots").glob("difference-*.png")}
    assert kept == {f"difference-{name}.png" for name in (
        "val-loss_full", "val-loss-at-4-s", "steps-to-val-loss-3.82", "seconds-to-val-loss-3.82"
    )}  # fmt: skip
    main([str(tmp_path), "--write"])  # asked less, it leaves the richer report
    assert len(list((tmp_path / "plots").glob("difference-*.png"))) == 4


def test_the_leaderboard_has_the_signs(close, tmp_path, capsys):
    main([str(tmp_path), "--no-plots"])
    said = capsys.readouterr().out
    rows = [line for line in said.split("val/loss_full:")[0].splitlines() if "done" in line][1:]
    assert [("≈" in row) for row in rows] == [False, True, False, False]
    assert "≈: cannot be told from the best by these seeds" in said
    page = markdown("title", [leaderboard(close), verdicts(compare(close))])
    assert re.search(r"^\| c \| .* \| ≈ \|", page, re.M)
    assert "## val/loss_full, compared with model=a" in page


def test_by_compares_only_what_it_shows(close, tmp_path, capsys):
    main([str(tmp_path), "--by", "model", "--no-plots"])
    assert "p is corrected for 3 rows" in capsys.readouterr().out
    found = compare(close, settings=[1, 2])
    assert set(found.settings.index) == {1, 2}
    assert found.settings["p holm"][2] == found.settings["p"][2]


def test_a_forest_has_an_interval_and_the_seeds_of_each_row(close):
    compared = compare(close)
    ((name, chart),) = verdicts(compared).figures.items()
    assert name == "difference-val-loss_full"
    assert labels(chart, "y") == ["a", "c", "b", "d"]
    drawn = rows(chart, "place", "difference", "low", "high")
    assert [row["kind"] for row in drawn] == ["base", "shown", "shown", "off"]  # fifty times b's
    seeds = [(row["place"], row["seed"]) for row in rows(chart, "place", "seed")]
    for place in (1, 2):
        setting, row = compared.settings.index[place], compared.settings.iloc[place]
        assert [drawn[place][name] for name in ("difference", "low", "high")] == pytest.approx(
            [row["difference"], row["low"], row["high"]]
        )
        of_row = [seed for at, seed in seeds if at == place]
        assert sorted(of_row) == pytest.approx(sorted(compared.by_seed[setting]))
    assert (drawn[2]["text"], drawn[3]["chance"]) == ("+0.0201", "<0.001")
    assert "arrow: off the scale" in words(chart)


def test_a_forest_has_its_thirty_best_rows_and_the_baseline_may_not_be_among_them(tmp_path):
    table = sweep(tmp_path, {f"m{i:02}": {1: 2.0 + i, 2: 2.1 + 1.01 * i} for i in range(32)})
    (chart,) = verdicts(compare(table, baseline=32)).figures.values()
    drawn = rows(chart, "place", "difference", "kind")
    assert len(drawn) == 30
    assert "base" not in {row["kind"] for row in drawn}
    assert "the 30 best of 32" in words(chart)
