"""Pictures: what is drawn where, on which axes."""

import math
import statistics
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.transforms import Bbox
from sweeps.made import made

from lmlab.sweeps.figures.plots import by_key, by_parameters, heat_map, pictures
from lmlab.sweeps.figures.scales import ordered, wants_log
from lmlab.sweeps.table.settings import load
from lmlab.sweeps.table.values import ceiling


def table(folder: Path):
    return load([folder])


@pytest.fixture
def optimizers(tmp_path) -> Path:
    """Two update rules over learning rates, two seeds; one setting fails, one diverges."""
    for rule, shift in (("sgd", 0.5), ("adam", 0.0)):
        for lr in (0.001, 0.01, 0.1):
            for seed in (1, 2):
                swept = {"optimizer": rule, "optimizer.lr": lr, "seed": seed}
                loss = 2 + shift + abs(math.log10(lr / 0.01)) / 10 + seed / 100
                curve = {step: loss + 1 / step for step in range(10, 101, 10)}
                if (rule, lr) == ("sgd", 0.1):
                    made(tmp_path, swept, None, "failed", error="boom")
                elif (rule, lr) == ("adam", 0.1):
                    made(tmp_path, swept, 1e6, curve=curve)
                else:
                    made(tmp_path, swept, loss, curve=curve)
    return tmp_path


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


def lines(axes) -> dict[str, tuple[list[float], list[float]]]:
    """Points by the legend's words."""
    handles, labels = axes.get_legend_handles_labels()
    return {
        text: (list(handle[0].get_xdata()), list(handle[0].get_ydata()))
        for handle, text in zip(handles, labels, strict=True)
        if not hasattr(handle, "get_xdata")
    }


def test_loss_by_a_number_is_a_line_for_each_value_of_the_other_key(optimizers):
    figure = by_key(table(optimizers), "optimizer.lr")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "optimizer.lr"
    assert axes.get_ylabel() == "val/loss_full, nats per token"
    drawn = lines(axes)
    assert set(drawn) == {"adam", "sgd", "failed, or off the scale"}
    assert drawn["adam"] == ([0.001, 0.01], pytest.approx([2.115, 2.015]))
    assert drawn["sgd"] == ([0.001, 0.01], pytest.approx([2.615, 2.515]))
    lost = [line for line in axes.lines if line.get_label() == "_lost"]
    assert [list(line.get_xdata()) for line in lost] == [[0.1], [0.1]]  # off the scale, and failed
    (best,) = [line for line in axes.lines if line.get_label() == "_best"]
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (0.01, pytest.approx(2.015))


def test_error_bars_are_the_deviation_over_seeds(optimizers):
    (axes,) = by_key(table(optimizers), "optimizer.lr").axes
    handles, labels = axes.get_legend_handles_labels()
    bars = handles[labels.index("adam")].lines[2][0].get_segments()
    spread = statistics.stdev([0.01, 0.02])
    assert [(top - low) / 2 for (_, low), (_, top) in bars] == pytest.approx([spread, spread])


def test_loss_by_a_word_goes_down_the_page_the_best_on_top(optimizers):
    (axes,) = by_key(table(optimizers), "optimizer").axes
    by_height = sorted(axes.get_yticklabels(), key=lambda text: -text.get_position()[1])
    assert [text.get_text() for text in by_height] == ["adam", "sgd"]
    assert axes.get_xlabel() == "val/loss_full, nats per token"


def test_heat_map_has_a_number_in_each_cell_and_masks_what_is_not_there(optimizers):
    for run in optimizers.glob("*"):
        if "0.001" in (run / "run.json").read_text() and "sgd" in (run / "run.json").read_text():
            (run / "run.json").unlink()
    axes, _ = heat_map(table(optimizers)).axes
    (mesh,) = axes.collections
    cells = np.ma.filled(mesh.get_array().astype(float), np.nan)
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert rows == ["adam", "sgd"]
    assert cells[0] == pytest.approx([2.115, 2.015, 1e6])
    assert cells[1] == pytest.approx([math.nan, 2.515, math.nan], nan_ok=True)
    assert {text.get_text() for text in axes.texts} >= {"2.115", "2.015", "2.515", "failed"}


def test_curves_are_means_over_seeds_of_what_was_logged(optimizers):
    figure = dict(pictures(table(optimizers)))["curves.png"]
    (axes,) = figure.axes
    (best, *_) = axes.lines
    assert best.get_label() == "adam, 0.01"
    assert list(best.get_xdata()) == list(range(10, 101, 10))
    assert list(best.get_ydata()) == pytest.approx([2.015 + 1 / s for s in range(10, 101, 10)])
    assert len(axes.collections) == len(axes.lines)  # a band with each


def test_loss_by_parameters_is_on_a_log_axis(tmp_path):
    for size, loss in ((32, 2.2), (64, 2.0), (128, 2.1)):
        for seed in (1, 2):
            swept = {"model.n_embd": size, "seed": seed}
            made(tmp_path, swept, loss, parameters=size * size, tokens=5000)
    (axes,) = by_parameters(table(tmp_path)).axes
    assert axes.get_xscale() == "log"
    assert lines(axes)["64"] == ([4096], [2.0])
    (frontier,) = [line for line in axes.lines if line.get_label() == "the best up to a size"]
    assert list(frontier.get_ydata()) == [2.2, 2.0]
    assert any("5,000 tokens" in text.get_text() for text in axes.texts)


TICKS = {
    "a few": [1e-4, 1e-3, 1e-2],
    "near ones": [1e-3, 1.1e-3, 1e-1],
    "within a decade": [2.1e-3 * 1.12**i for i in range(13)],
    "long ones": [1e-3 * 1.3**i for i in range(12)],
    "twelve decades": [10.0**i for i in range(-6, 7)],
    "even ones": [i / 40 for i in range(1, 41)],
}


@pytest.mark.parametrize("rates", TICKS.values(), ids=TICKS)
def test_ticks_are_plain_numbers_with_room_between_them(tmp_path, rates):
    for i, rate in enumerate(rates):
        size = max(1, round(rate * 1e6))
        made(tmp_path, {"optimizer.lr": rate, "seed": 1}, 2 + i / 100, parameters=size)
    for name, figure in pictures(table(tmp_path)):
        if name == "curves.png":
            continue
        FigureCanvasAgg(figure).draw()
        (axis,) = [axes.xaxis for axes in figure.axes]
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        labels = [tick.label1 for tick in ticks if tick.label1.get_text()]
        assert len(labels) > 1
        assert not any("$" in text.get_text() for text in labels)
        boxes = [text.get_window_extent() for text in labels]
        assert not any(Bbox.intersection(a, b) for a, b in pairwise(boxes))


@pytest.mark.parametrize(
    ("flops", "drawn"), [((1e9, 4e9), True), ((1e9, 1e9), False), ((0, 1e9), False)]
)
def test_settings_whose_steps_cost_differently_have_curves_by_compute(tmp_path, flops, drawn):
    for size, cost in zip((16, 64), flops, strict=True):
        curve = {0: 4.0, 50: 3.0, 100: 2.5}
        made(tmp_path, {"model.n_embd": size}, 2.5, curve=curve, flops=cost)
    figure = dict(pictures(table(tmp_path))).get("curves-by-flops.png")
    assert (figure is not None) == drawn
    if figure is not None:
        (axes,) = figure.axes
        assert axes.get_xscale() == "log"
        ends = sorted(float(line.get_xdata()[-1]) for line in axes.lines)
        assert ends == list(flops)
        assert all(len(line.get_xdata()) == 2 for line in axes.lines)  # not before training


def test_a_setting_that_diverged_covers_no_curve(tmp_path):
    for rate, height in ((0.01, 2.0), (0.1, 2.1), (1e9, 1e6)):
        for seed in (1, 2):
            curve = {step: height * (1 + seed / step) for step in (10, 20, 30)}
            made(tmp_path, {"optimizer.lr": rate, "seed": seed}, height, curve=curve)
    (axes,) = dict(pictures(table(tmp_path)))["curves.png"].axes
    assert [line.get_label() for line in axes.lines] == ["0.01", "0.1"]
    assert axes.get_ylim()[1] < 3
    assert any("1 off the scale" in text.get_text() for text in axes.texts)


def test_a_seed_that_diverged_leaves_the_others_in_sight(tmp_path):
    for seed, loss in enumerate([2.1, 2.2, 1e9, 2.15]):
        made(tmp_path, {"seed": seed}, loss)
    (axes,) = dict(pictures(table(tmp_path)))["loss-by-seed.png"].axes
    assert axes.get_ylim()[1] < 3
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert list(cross.get_xdata()) == [2]


def test_every_picture_is_an_image(optimizers, tmp_path):
    names = []
    for name, figure in pictures(table(optimizers)):
        figure.savefig(tmp_path / name)
        pixels = imread(tmp_path / name)
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.01  # not a blank page
        names.append(name)
    assert names == [
        "loss-by-optimizer.png",
        "loss-by-optimizer.lr.png",
        "heat-map.png",
        "curves.png",
    ]


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
    ],
    ids=["one run", "seeds", "mixed", "ragged", "search", "odd", "far apart"],
)
@pytest.mark.parametrize("status", ["done", "failed", "running"])
def test_any_sweep_can_be_drawn(tmp_path, swept, status):
    for i, values in enumerate(swept):
        made(tmp_path, values, 2 + i, status, curve={1: 3.0} if i % 2 else None)
    for name, figure in pictures(table(tmp_path)):
        figure.savefig(tmp_path / "picture.png")
        assert "/" not in name
