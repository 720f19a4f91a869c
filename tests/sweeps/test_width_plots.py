"""Pictures of sweeps over widths: which are drawn, and the best rate of each width."""

from pathlib import Path

import pytest
from made import made

from lmlab.sweeps.figures.width_plots import _panels, best_rates, width_pictures
from lmlab.sweeps.table.settings import load

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


def drawn(folder: Path) -> dict[str, int]:
    """By name, how many pairs of axes each picture has."""
    return {name: len(figure.axes) for name, figure in width_pictures(load([folder]))}


def test_each_parametrisation_has_its_axes_and_each_width_its_best_rate(tmp_path):
    transfer(tmp_path)
    table = load([tmp_path])
    assert drawn(tmp_path) == {"rate-by-width.png": 2}
    panels = _panels(table, "optimizer.lr")
    assert set(panels) == {"parametrisation=standard", "parametrisation=mup"}
    standard, mup = (best_rates(table, panels[f"parametrisation={p}"]) for p in ("standard", "mup"))
    assert standard.to_dict() == {32: 0.016, 64: 0.004, 128: 0.004}
    assert mup.to_dict() == {32: 0.016, 64: 0.016, 128: 0.016}
    (figure,) = [figure for _, figure in width_pictures(table)]
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["best rate: 0.016 at width 32, 0.004 at 128"]


def test_with_another_key_free_there_is_no_picture_that_would_mix_them(tmp_path):
    transfer(tmp_path)
    swept = {"parametrisation": "mup", "optimizer.lr": 0.001, "model.n_embd": 32}
    made(tmp_path, {**swept, "model.n_head": 2, "trainer.max_steps": 7, "seed": 1}, 2.0)
    assert drawn(tmp_path) == {}


@pytest.mark.parametrize("widths", [("a", "b"), (32,)])
def test_without_widths_there_is_none(tmp_path, widths):
    for width in widths:
        for rate in RATES:
            made(tmp_path, {"model.n_embd": width, "optimizer.lr": rate, "seed": 1}, 2.0)
    assert drawn(tmp_path) == {}


def test_a_run_that_failed_is_left_out(tmp_path):
    transfer(tmp_path)
    swept = {"parametrisation": "mup", "optimizer.lr": 0.064, "model.n_embd": 32}
    made(tmp_path, {**swept, "model.n_head": 2, "seed": 1}, None, status="failed")
    assert drawn(tmp_path) == {"rate-by-width.png": 2}


def test_activations_of_the_last_block_and_the_logits_have_a_row_each(tmp_path):
    tags = [f"blocks.{i}.{part}" for i in (0, 1) for part in ("attention", "feed_forward")]
    for way in ("standard", "mup"):
        for width in (32, 64):
            swept = {"parametrisation": way, "model.n_embd": width, "seed": 1}
            path = made(tmp_path, swept, 2.0)
            header = ["step", *(f"activations/{tag}" for tag in [*tags, "logits"]), "val/loss"]
            rows = [[step, *([0.1 * width] * 5), 2.0] for step in (0, 1, 2)]
            lines = [",".join(map(str, row)) for row in [header, *rows]]
            (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert drawn(tmp_path) == {"activations-by-width.png": 3 * 2}
