"""Figures: what is drawn where, on which axes."""

import json
import math
import re
import statistics
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from sweeps.drawn import encoding, labels, rows, words
from sweeps.made import made

from lmlab.handles import Sweep
from lmlab.sweeps.compare.widths import best_rates, panels_of
from lmlab.sweeps.figures.charts import png_of, svg_of
from lmlab.sweeps.figures.learning_curves import curves_of, loss_curves
from lmlab.sweeps.figures.losses import by_key, by_parameters, heat_map
from lmlab.sweeps.figures.scales import styles_of_settings
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.reporting import report
from lmlab.sweeps.table.settings import load
from lmlab.sweeps.table.values import ceiling, ordered, wants_log

ORDER = "\x1b[2J\x00\ufffe"  # a terminal would act on it, and no SVG may hold it


def table(folder: Path):
    return load([folder])


def test_whatever_a_value_holds_it_is_drawn_and_no_order_to_a_terminal(tmp_path, capsys):
    for value in (f"a{ORDER}", "b"):
        for seed in (1, 2):
            made(tmp_path, {f"mine{ORDER}": value, "seed": seed}, 2.0 + seed, curve={10: 3.0})
    made(tmp_path, {f"mine{ORDER}": "c", "seed": 1}, None, "failed", error=ORDER)
    report(tmp_path)
    assert list(tmp_path.glob("plots/*.png"))
    assert not set(ORDER[0] + ORDER[4]) & set(capsys.readouterr().out)


@pytest.fixture(scope="module")
def optimizers(tmp_path_factory):
    """Two update rules over learning rates, two seeds; one setting fails, one diverges."""
    folder = tmp_path_factory.mktemp("optimizers")
    for rule, shift in (("sgd", 0.5), ("adam", 0.0)):
        for lr in (0.001, 0.01, 0.1):
            for seed in (1, 2):
                swept = {"optimizer": rule, "optimizer.lr": lr, "seed": seed}
                loss = 2 + shift + abs(math.log10(lr / 0.01)) / 10 + seed / 100
                curve = {step: loss + 1 / step for step in range(10, 101, 10)}
                if (rule, lr) == ("sgd", 0.1):
                    made(folder, swept, None, "failed", error="boom")
                elif (rule, lr) == ("adam", 0.1):
                    made(folder, swept, 1e6, curve=curve)
                else:
                    made(folder, swept, loss, curve=curve)
    return table(folder)


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([1e-4, 1e-3, 1e-2], True),
        ([8, 16, 32, 64], True),
        ([3e-4, 1e-3, 3e-3, 1e-2], True),
        ([1e-3, 1e-2], True),
        ([0.0, 0.1, 0.2], False),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], False),
        ([32, 64], False),
        ([-1.0, 10.0, 1000.0], False),
        ([0.1], False),
    ],
)
def test_log_axes_where_the_values_ask_for_them(values, log):
    assert wants_log(values) is log


def test_one_diverged_run_does_not_press_the_others_flat():
    assert ceiling([2.0, 2.1, 2.5, 1e6]) == 2.5
    assert ceiling([2.0, 2.1, 2.5, 4.0]) == math.inf
    assert ceiling([2.0, 80.0]) == 2.0
    assert ceiling([2.0, 1e9, 2e9]) == 2.0
    assert ceiling([2.0, 6.0, 6.0, 6.0]) == math.inf
    assert ceiling([math.nan, math.inf]) == math.inf


def test_numbers_are_ordered_by_size_and_all_else_as_it_comes():
    assert ordered([10, 2.5, 1e3, 10.0, math.nan]) == [2.5, 10.0, 1e3]
    assert ordered(["b", 10, "a", None, 10.0, math.nan]) == ["b", 10.0, "a", None]


def test_loss_by_a_number_is_a_line_for_each_value_of_the_other_key(optimizers):
    chart = by_key(optimizers, "optimizer.lr")
    assert encoding(chart, "x")["scale"]["type"] == "log"
    assert encoding(chart, "x")["title"] == "optimizer.lr"
    assert encoding(chart, "y")["title"] == "val/loss_full, nats per token"
    assert labels(chart, "color") == ["adam", "sgd"]
    points = rows(chart, "at", "loss", "is_lost")
    drawn = {(p["line"], p["at"]): p["loss"] for p in points if not p["is_lost"]}
    assert drawn == {
        (0, 0.001): pytest.approx(2.115),
        (0, 0.01): pytest.approx(2.015),
        (1, 0.001): pytest.approx(2.615),
        (1, 0.01): pytest.approx(2.515),
    }
    lost = [(p["line"], p["at"]) for p in points if p["is_lost"]]
    assert sorted(lost) == [(0, 0.1), (1, 0.1)]  # off the scale, and failed
    assert "×: failed, or off the scale" in words(chart)
    (best,) = [p for p in points if p["is_best"]]
    assert (best["at"], best["best"]) == (0.01, "best 2.0150 ± 0.0071")


def test_error_bars_are_the_deviation_over_seeds(optimizers):
    points = rows(by_key(optimizers, "optimizer.lr"), "low", "high", "loss")
    bars = [(p["high"] - p["low"]) / 2 for p in points if not p["is_lost"]]
    assert bars == pytest.approx([statistics.stdev([0.01, 0.02])] * 4)


def test_loss_by_a_word_goes_down_the_page_the_best_on_top(optimizers):
    chart = by_key(optimizers, "optimizer")
    assert labels(chart, "y") == ["adam", "sgd"]
    assert encoding(chart, "x")["title"] == "val/loss_full, nats per token"


def test_heat_map_has_a_number_in_each_cell_and_masks_what_is_not_there(optimizers, tmp_path):
    for settings in optimizers.runs.to_dict("records"):
        if (settings["optimizer"], settings["optimizer.lr"]) != ("sgd", 0.001):
            (tmp_path / Path(settings["directory"]).name).symlink_to(settings["directory"])
    chart = heat_map(load([*tmp_path.iterdir()]))
    assert labels(chart, "y") == ["adam", "sgd"]
    cells = {(cell["x"], cell["y"]): cell["text"] for cell in rows(chart, "x", "y", "text")}
    assert cells == {
        **{(0, 0): "2.115", (1, 0): "2.015", (2, 0): "1e+06"},
        **{(1, 1): "2.515", (2, 1): "failed"},
    }
    assert chart.to_dict()["view"]["fill"] == "#dddddd"  # where there is none


def test_curves_are_means_over_seeds_of_what_was_logged(optimizers):
    chart = loss_curves(curves_of(optimizers))
    assert labels(chart, "color")[0] == "adam, 0.01"
    best = {p["steps"]: p for p in rows(chart, "steps", "mean", "sd") if p["line"] == 0}
    steps = range(10, 101, 10)
    at = {step: best[step]["mean"] for step in steps if best[step]["mean"] is not None}
    assert at == {step: pytest.approx(2.015 + 1 / step) for step in steps}
    assert all(
        (p["high"] - p["low"]) / 2 == pytest.approx(statistics.stdev([0.01, 0.02]), abs=5e-3)
        for p in best.values()
    )


def test_a_setting_has_one_colour_in_every_figure(tmp_path):
    for i, model in enumerate("abc"):
        for seed in (1, 2):
            curve = {10: 3.0, 20: 2.0 + i}
            made(tmp_path, {"model": model, "seed": seed}, 2.0 + i, curve=curve, parameters=9 - i)
    found = table(tmp_path)
    colours = [style.colour for style in styles_of_settings(found).values()]
    curves = loss_curves(curves_of(found))
    assert encoding(curves, "color")["scale"]["range"] == colours
    sizes = by_parameters(found)  # smallest first
    points = rows(sizes, "at", "loss", "fill")
    assert {p["setting"]: p["fill"] for p in points} == dict(zip("abc", colours, strict=True))


def test_loss_by_parameters_is_on_a_log_axis(tmp_path):
    for size, loss in ((32, 2.2), (64, 2.0), (128, 2.1)):
        for seed in (1, 2):
            swept = {"model.n_embd": size, "seed": seed}
            made(tmp_path, swept, loss, parameters=size * size, tokens=5000)
    chart = by_parameters(table(tmp_path))
    assert encoding(chart, "x")["scale"]["type"] == "log"
    points = {row["setting"]: (row["at"], row["loss"]) for row in rows(chart, "at", "fill")}
    assert points["64"] == (4096, 2.0)
    frontier = [row for row in rows(chart, "at", "loss") if "fill" not in row]
    assert [row["loss"] for row in frontier] == [2.2, 2.0]
    assert "5,000 tokens" in words(chart)


TICKS = {
    "a few": [1e-4, 1e-3, 1e-2],
    "near ones": [1e-3, 1.1e-3, 1e-1],
    "within a decade": [2.1e-3 * 1.12**i for i in range(13)],
    "long ones": [1e-3 * 1.3**i for i in range(12)],
    "twelve decades": [10.0**i for i in range(-6, 7)],
    "even ones": [i / 40 for i in range(1, 61)],
}


@pytest.mark.parametrize("rates", TICKS.values(), ids=TICKS)
def test_ticks_are_plain_numbers_with_room_between_them(tmp_path, rates):
    for i, rate in enumerate(rates):
        size = max(1, round(rate * 1e6))
        made(tmp_path, {"optimizer.lr": rate, "seed": 1}, 2 + i / 100, parameters=size)
    for chart in leaderboard(table(tmp_path)).figures.values():
        svg = svg_of(chart).decode()
        (axis,) = re.findall(r"aria-label=\"X-axis.*?(<g class=\"mark-text role-axis-label.*?)</g>",
                             svg, re.S)  # fmt: skip
        ticks = re.findall(r'<text.*?translate\(([\d.]+),.*?opacity="(\d)".*?>(.*?)</text>', axis)
        shown = [(float(x), text) for x, opacity, text in ticks if opacity == "1"]
        assert len(shown) > 1
        assert all(re.fullmatch(r"[\d.e+−]+[kMGT]?", text) for _, text in shown)
        for (x, text), (after, other) in pairwise(sorted(shown)):
            assert after - x > 3.4 * (len(text) + len(other))  # half of either


@pytest.mark.parametrize(
    ("flops", "drawn"), [((1e9, 4e9), True), ((1e9, 1e9), False), ((0, 1e9), False)]
)
def test_settings_whose_steps_cost_differently_have_curves_by_compute(tmp_path, flops, drawn):
    for size, cost in zip((16, 64), flops, strict=True):
        curve = {0: 4.0, 50: 3.0, 100: 2.5}
        made(tmp_path, {"model.n_embd": size}, 2.5, curve=curve, flops=cost)
    chart = leaderboard(table(tmp_path)).figures.get("curves-by-flops")
    assert (chart is not None) == drawn
    if chart is not None:
        assert encoding(chart, "x")["scale"]["type"] == "log"
        assert chart.to_dict()["transform"][-1]["filter"] == "datum['flops'] > 0"
        at = [(row["line"], row["flops"]) for row in rows(chart, "flops", "mean") if row["size"]]
        assert sorted(at) == [(0, 0), (0, 5e8), (0, 1e9), (1, 0), (1, 2e9), (1, 4e9)]


def test_a_setting_that_diverged_covers_no_curve(tmp_path):
    for rate, height in ((0.01, 2.0), (0.1, 2.1), (1e9, 1e6)):
        for seed in (1, 2):
            curve = {step: height * (1 + seed / step) for step in (10, 20, 30)}
            made(tmp_path, {"optimizer.lr": rate, "seed": seed}, height, curve=curve)
    chart = leaderboard(table(tmp_path)).figures["curves"]
    assert {row["line"] for row in rows(chart, "steps", "mean")} == {0, 1}
    assert encoding(chart, "y")["scale"]["domain"][1] < 3
    assert "1 off the scale" in words(chart)


def test_a_curve_is_cut_where_it_leaves_the_axis(tmp_path):
    made(tmp_path, {"seed": 1}, 2.0, curve={0: 6.0, 10: 4.0, 20: 2.0, **dict.fromkeys(
        range(30, 101, 10), 2.0), 25: 2.2})  # fmt: skip
    chart = leaderboard(table(tmp_path)).figures["curves"]
    low, high = encoding(chart, "y")["scale"]["domain"]
    points = [row for row in rows(chart, "steps", "mean") if row["mean"] is not None]
    assert all(low <= row["mean"] <= high for row in points)
    (crossing,) = [row for row in points if row["size"] == 0]
    assert crossing["mean"] == pytest.approx(high)
    assert crossing["steps"] == pytest.approx(10 + (4.0 - high) / 0.2)


def test_a_seed_that_diverged_leaves_the_others_in_sight(tmp_path):
    for seed, loss in enumerate([2.1, 2.2, 1e9, 2.15]):
        made(tmp_path, {"seed": seed}, loss)
    points = rows(leaderboard(table(tmp_path)).figures["loss-by-seed"], "at", "loss")
    assert [p["loss"] for p in points] == [2.1, 2.2, None, 2.15]
    assert [p["at"] for p in points if p["is_lost"]] == [2]


def test_a_notebook_shows_the_figures_of_the_report(tmp_path):
    for model in "ab":
        for seed in (1, 2):
            made(tmp_path, {"model": model, "seed": seed}, ord(model) + seed / 10)
    figures = Sweep(tmp_path).figures()
    assert list(figures) == ["loss-by-model", "difference-val-loss_full"]
    for chart in figures.values():
        assert "vega" in str(chart._repr_mimebundle_())


def test_every_figure_is_a_picture(optimizers, tmp_path):
    figures = leaderboard(optimizers).figures
    assert list(figures) == ["loss-by-optimizer", "loss-by-optimizer.lr", "heat-map", "curves"]
    for chart in figures.values():
        (tmp_path / "picture.png").write_bytes(png_of(svg_of(chart)))
        pixels = imread(tmp_path / "picture.png")
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.01  # not a blank page
        assert svg_of(chart).startswith(b"<svg")


@pytest.mark.parametrize(
    "swept",
    [
        [{"seed": 1}],
        [{"seed": 1}, {"seed": 2}, {"seed": 3}],
        [{"a": None}, {"a": 0.1}, {"a": [1, 2]}, {"a": "x" * 500}],
        [{"a": 1}, {"b": 2}, {"a": 1, "b": 2}],
        [{"a": i / 7, "b": i % 3, "c": "p|q\n$\\frac$"} for i in range(9)],
        [{"a": math.nan, "seed": 1}, {"a": 1.0, "seed": "one"}],
        [{"a": 1e300}, {"a": 1}, {"a": 1e-300}],
        [{"a\nb": 1, "'\\": "x\ny"}, {"a\nb": 2, "'\\": "\u2028"}],
    ],
    ids=["one run", "seeds", "mixed", "ragged", "search", "odd", "far apart", "line breaks"],
)
def test_any_sweep_can_be_drawn(tmp_path, swept):
    for status in ("done", "failed"):
        for i, values in enumerate(swept):
            curve = {1: 3.0} if i % 2 else None
            made(tmp_path / status, values, 2 + i, status, curve=curve)
        for name, chart in leaderboard(table(tmp_path / status)).figures.items():
            assert "/" not in name
            assert json.dumps(chart.to_dict())  # checked by Vega-Lite's schema
            if status == "done":
                assert b"NaN" not in svg_of(chart)


RATES = (0.001, 0.004, 0.016)


def transfer(folder: Path, widths: tuple[int, ...] = (32, 64, 128)) -> None:
    """In one parametrisation the best rate falls with the width, in the other it does not."""
    for way in ("standard", "mup"):
        for width in widths:
            best = 0.016 * (32 / width if way == "standard" else 1)
            for rate in RATES:
                swept = {"parametrisation": way, "optimizer.lr": rate, "model.n_embd": width}
                loss = 2 + abs(rate / best - 1) / 10
                made(folder, {**swept, "model.n_head": width // 16, "seed": 1}, loss)


def panels(folder: Path) -> dict[str, int]:
    """By name, how many pairs of axes each figure of widths has."""
    drawn = {}
    for name, chart in leaderboard(table(folder)).draw():
        if not name.endswith("-by-width"):
            break  # they come first
        drawn[name] = len({(row["panel"], row.get("row")) for row in rows(chart, "panel")})
    return drawn


def test_each_parametrisation_has_its_axes_and_each_width_its_best_rate(tmp_path):
    transfer(tmp_path)
    found = table(tmp_path)
    assert panels(tmp_path) == {"rate-by-width": 2}
    of_way = panels_of(found, "optimizer.lr")
    assert set(of_way) == {"parametrisation=standard", "parametrisation=mup"}
    standard, mup = (best_rates(found, of_way[f"parametrisation={p}"]) for p in ("standard", "mup"))
    assert standard.to_dict() == {32: 0.016, 64: 0.004, 128: 0.004}
    assert mup.to_dict() == {32: 0.016, 64: 0.016, 128: 0.016}
    chart = leaderboard(found).figures["rate-by-width"]
    assert "best rate: 0.016 at width 32, 0.004 at 128" in words(chart)


def test_with_another_key_free_there_is_no_figure_that_would_mix_them(tmp_path):
    transfer(tmp_path)
    swept = {"parametrisation": "mup", "optimizer.lr": 0.001, "model.n_embd": 32}
    made(tmp_path, {**swept, "model.n_head": 2, "trainer.max_steps": 7, "seed": 1}, 2.0)
    assert panels(tmp_path) == {}


@pytest.mark.parametrize("widths", [("a", "b"), (32,)])
def test_without_widths_there_is_none(tmp_path, widths):
    for width in widths:
        for rate in RATES:
            made(tmp_path, {"model.n_embd": width, "optimizer.lr": rate, "seed": 1}, 2.0)
    assert panels(tmp_path) == {}


def test_a_run_that_failed_is_left_out(tmp_path):
    transfer(tmp_path)
    swept = {"parametrisation": "mup", "optimizer.lr": 0.064, "model.n_embd": 32}
    made(tmp_path, {**swept, "model.n_head": 2, "seed": 1}, None, status="failed")
    assert panels(tmp_path) == {"rate-by-width": 2}


def test_activations_of_the_last_block_and_the_logits_have_a_row_each(tmp_path):
    tags = [f"blocks.{i}.{part}" for i in (0, 1) for part in ("attention", "feed_forward")]
    for way in ("standard", "mup"):
        for width in (32, 64):
            swept = {"parametrisation": way, "model.n_embd": width, "seed": 1}
            path = made(tmp_path, swept, 2.0)
            header = ["step", *(f"activations/{tag}" for tag in [*tags, "logits"]), "val/loss"]
            values = [[step, *([0.1 * width] * 5), 2.0] for step in range(9)]
            lines = [",".join(map(str, row)) for row in [header, *values]]
            (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert panels(tmp_path) == {"activations-by-width": 3 * 2}
    _, chart = next(leaderboard(table(tmp_path)).draw())
    sizes = {(row["width"], row["size"]) for row in rows(chart, "width", "size", "step")}
    assert np.allclose(sorted(sizes), [(32, 3.2), (64, 6.4)])
    assert {row["step"] for row in rows(chart, "width", "size", "step")} == set(range(7))  # a few
