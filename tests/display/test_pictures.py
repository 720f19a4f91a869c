"""Pictures, histograms and the projector: what they show, and that training does not notice."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import checkpoint, same, tensorboard, weights

from lmlab.data.ids import Ids
from lmlab.data.tokenizer import CharTokenizer
from lmlab.display import pictures
from lmlab.display.heatmaps import CELL, COLOURS, SCALE, HeatMaps
from lmlab.display.pictures import frequencies

GPT = ("model=gpt", "model.n_embd=16", "model.n_layer=2", "model.dropout=0.2")
ON = ("callbacks.histograms.every=1", "callbacks.pictures.tokens=8")
OFF = ("callbacks.pictures.every=0", "~callbacks.projector")


def colour(value: float) -> np.ndarray:
    return np.array(COLOURS(SCALE(value), bytes=True)[:3]).astype(int)


def test_training_does_not_notice(experiment):
    drawn = experiment(*GPT, *ON)
    plain = experiment(*GPT, *OFF)
    chunked = experiment(*GPT, *ON, "data.steps_per_batch=1")
    for other in (plain, chunked):
        assert same(weights(drawn), weights(other))
        assert same(checkpoint(drawn)["random"], checkpoint(other)["random"])
        assert drawn.record["metrics"] == other.record["metrics"]
    shown, also_shown = tensorboard(drawn), tensorboard(chunked)
    tags = set(shown)
    assert shown.pop("setup/config") != also_shown.pop("setup/config")  # it tells the chunk
    assert shown == also_shown
    assert {"view/attention/layer_1", "weights_update/lm_head.weight"} <= tags
    assert tags - tensorboard(plain).keys() == {
        tag for tag in tags if tag.startswith(("view", "weights"))
    }
    assert drawn.record["fingerprint"] == plain.record["fingerprint"]


def test_off_imports_nothing_and_writes_nothing(experiment, monkeypatch):
    monkeypatch.delitem(sys.modules, "lmlab.display.heatmaps", raising=False)
    run = experiment("model=head", *OFF)
    assert "lmlab.display.heatmaps" not in sys.modules
    assert not any(tag.startswith(("view", "weights")) for tag in tensorboard(run))
    assert not (run.path / "projector").exists()
    experiment("model=head", "logger.tensorboard=false", *ON)
    assert "lmlab.display.heatmaps" not in sys.modules


@pytest.mark.parametrize(("every", "expected"), [(1, [8, 16, 24]), (2, [16, 24]), (9, [24])])
def test_how_often_is_config(experiment, every, expected):
    run = experiment("model=head", "eval.every=8", f"callbacks.pictures.every={every}")
    assert [step for step, _ in tensorboard(run)["view/attention/layer_1"]] == expected


def test_update_histogram_is_what_the_weights_moved_by(experiment):
    run = experiment("model=bigram", "optimizer=sgd", "trainer.max_steps=1", "eval.every=1", *ON)
    curves = tensorboard(run)
    (step, gradient), (_, update) = (
        curves[f"weights_{of}/table.weight"][0] for of in ("gradient", "update")
    )
    assert step == 1
    # Rows of (left edge, right edge, count): the update is -lr times the gradient.
    lr = run.config["optimizer"]["lr"]
    assert update[0][0] == pytest.approx(-lr * gradient[-1][1], rel=1e-4)
    assert update[-1][1] == pytest.approx(-lr * gradient[0][0], rel=1e-4)
    assert sum(count for *_, count in update) == 65 * 65


def test_frequencies_are_those_of_the_text():
    tokenizer = CharTokenizer.fit(["abracadabra!"])
    tokens = torch.tensor(tokenizer.encode("abracadabra!"))
    shown, table = frequencies(Ids(tokens), tokenizer.vocab_size, 99)
    assert tokenizer.decode(shown) == "!abcdr"
    assert table[1].tolist() == [0.2, 0, 0.4, 0.2, 0.2, 0]  # what follows an a
    assert table[2].tolist() == [0, 0, 0, 0, 0, 1]  # a b
    assert table[0].tolist() == [0] * 6  # nothing follows the last
    shown, few = frequencies(Ids(tokens), tokenizer.vocab_size, 3)
    assert tokenizer.decode(shown) == "abr"
    assert few[0].tolist() == [0, 0.4, 0]  # shares of all that follows, shown or not


def test_frequencies_are_the_same_however_many_tokens_are_counted_at_a_time(monkeypatch):
    tokens = torch.randint(0, 20, (1000,), generator=torch.Generator().manual_seed(0))
    shown, table = frequencies(Ids(tokens), 20, 7)
    for chunk in (1, 3, 999, 1000):
        monkeypatch.setattr(pictures, "CHUNK", chunk)
        again, same_table = frequencies(Ids(tokens), 20, 7)
        assert torch.equal(again, shown)
        assert np.array_equal(same_table, table)


def test_counting_pairs_takes_no_memory_that_grows_with_the_text():
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        pytest.skip("only Linux says how much memory a process had at most")
    tokens = torch.randint(0, 65, (40_000_000,), dtype=torch.uint8)
    frequencies(Ids(tokens[:1000]), 65, 65)
    peak.write_text("5")  # forget the peak so far
    before = most_memory()
    frequencies(Ids(tokens), 65, 65)
    assert most_memory() - before < 200_000_000  # 8 bytes for each token would be 320 MB


def most_memory() -> int:
    (line,) = [s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s]
    return 1024 * int(line.split()[1])


def test_cells_have_their_colours_down_to_the_last_row():
    n = 32
    labels = [chr(97 + i % 26) for i in range(n)]
    maps = HeatMaps(labels, labels, ["one", "two", "three"], "next")

    def picture(values: np.ndarray) -> np.ndarray:
        return np.asarray(maps.draw(values).convert("RGB"))

    nothing = np.zeros((3, n, n))
    averages = np.stack([np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]] * 3)
    averages[:, ~np.tri(n, dtype=bool)] = np.nan
    drawn = picture(averages).astype(int)
    changed = (drawn != picture(nothing)).any(-1)
    assert changed.sum() == 3 * n * n * CELL * CELL  # all of the cells, and nothing else
    assert np.abs(colour(1 / n) - colour(0)).sum() > 60  # an average's last row can be seen
    down, across = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    first_row = drawn[down[0] + CELL // 2, across[0] + CELL // 2]
    assert (first_row == colour(1)).all()
    last = drawn[down[0] + n * CELL - CELL // 2, across[0] : across[0] + n * CELL]
    assert (last == colour(1 / n)).all()
    assert (drawn[down[0], across[0] + n * CELL - 1] == round(0.92 * 255)).all()  # no future


def test_any_token_can_be_a_label():
    tokens = ["$", "$x$", "\n", " the", "中", "\ufffd", "\x00", "\\frac", "_", "</b>", "🜁", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = HeatMaps(tokens, tokens, [""], "next")
    assert maps.draw(np.eye(len(tokens))[None]).size[0] > 10 * len(tokens)
