"""What a user would see, asked of TensorBoard by the requests that its own page makes."""

import html
import io
import math
import re
import urllib.parse
from typing import Any

import numpy as np
import pytest
import yaml
from boards import Board, Sweep, begin, get
from comparing import BY_SECONDS, NOISY
from PIL import Image
from small import checked

from lmlab.display.for_tensorboard.summaries import CHARTS, METRICS
from lmlab.training.costs.flops import flops_per_token

GPT, RESUMED, HEAD = "sweeps/mixed/gpt", "resumed", "sweeps/mixed/head"
EVERY_STATUS = [f"STATUS_{status}" for status in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]


def scalars(link: str, run: str, tag: str) -> list[tuple[int, float]]:
    points = get(link, "plugin/scalars/scalars", run=run, tag=tag)
    return [(step, value) for _, step, value in points]


def rows(link: str) -> dict[str, dict[str, Any]]:
    """The HParams table: by run, its hyperparameters, metrics and status."""
    wanted = {"allowedStatuses": EVERY_STATUS, "startIndex": 0, "sliceSize": 1000, "colParams": []}
    groups = get(link, "plugin/hparams/session_groups", wanted)["sessionGroups"]
    found = {}
    for group in groups:
        (session,) = group["sessions"]
        metrics = {m["name"]["tag"]: m["value"] for m in group.get("metricValues", [])}
        found[group["name"]] = {"is": group["hparams"], "metrics": metrics, **session}
    assert len(found) == len(groups)
    return found


def text(link: str, run: str, tag: str) -> list[tuple[int, str]]:
    """Texts as they stand on the page: HTML with the markup taken away, as a browser would."""
    shown = []
    for point in get(link, "plugin/text/text", run=run, tag=tag):
        found = re.fullmatch(r"<pre>\n?([^<>]*)</pre>", point["text"])
        assert found, point["text"]
        shown.append((point["step"], html.unescape(found[1])))
    return shown


def test_hparams_has_one_row_for_every_run(link: str, sweep: Sweep):
    table = rows(link)
    assert table.keys() == sweep.runs.keys()
    types = {name: type(value) for name, value in table[GPT]["is"].items()}
    assert len(types) == 18
    for row in table.values():
        assert {name: type(value) for name, value in row["is"].items()}.items() <= types.items()
    bigram, head, gpt = (table[f"sweeps/mixed/{m}"]["is"] for m in ("bigram", "head", "gpt"))
    assert [row["model"] for row in (bigram, head, gpt)] == ["Bigram", "Head", "GPT"]
    # What a run does not have stays empty: a 0 would take away the logarithmic scale.
    assert [row.get("n_head") for row in (bigram, head, gpt)] == [None, 1, 2]
    assert types.keys() - bigram.keys() == {"n_layer", "n_head", "n_embd", "dropout"}
    assert {"lr", "max_steps", "parameters"} <= types.keys() - table["sweeps/mixed/ngram"][
        "is"
    ].keys()
    assert (gpt["dropout"], gpt["n_layer"], gpt["n_embd"], gpt["lr"]) == (0.1, 2, 16, 1e-3)
    assert (gpt["tokenizer"], gpt["corpus"], gpt["seed"]) == ("char", "tinyshakespeare", 1337)
    assert gpt["parameters"] == sweep.runs[GPT].record["parameters"]
    assert table["hostile"]["is"]["corpus"] == "hostile.txt"
    assert table["sweeps/mixed/ngram"]["is"]["optimizer"] == "none"
    assert table["own"]["is"]["model"] == "Own"
    assert table[RESUMED]["is"]["max_steps"] == 24


def test_hparams_metrics_are_the_true_last_and_best_ones(link: str, sweep: Sweep):
    for name, row in rows(link).items():
        record, shown = sweep.runs[name].record, row["metrics"]
        curve = [loss for _, loss in scalars(link, name, "val/loss")]
        assert shown["val/loss_best"] == min(curve)
        assert shown["val/loss"] == pytest.approx(curve[-1], rel=1e-6)
        if name == "failed":
            assert row["status"] == "STATUS_FAILURE"
            assert "val/loss_full" not in shown
            continue
        assert row["status"] == "STATUS_SUCCESS"
        assert shown.keys() == set(METRICS)
        full = record["metrics"]["val/loss_full"]
        assert shown["val/loss_full"] == pytest.approx(full, rel=1e-6)
        in_bits = record["metrics"]["val/bpc_full"]
        assert shown["val/bpc_full"] == pytest.approx(in_bits, rel=1e-6)
        assert shown["train/seconds"] > 0


def test_resumed_run_is_one_clean_curve(link: str, sweep: Sweep, tmp_path):
    words = [
        f"corpus.path={sweep.runs[RESUMED].config['corpus']['path']}",
        "data.val_fraction=0.01",
    ]
    words += ["model=gpt", "model.n_layer=2", "model.n_head=2", "model.n_embd=16"]
    begin(tmp_path / "whole", *words, "model.dropout=0.1")
    with Board(Sweep(tmp_path, {"whole": None})) as other:
        tags = get(other, "plugin/scalars/tags")["whole"]
        assert get(link, "plugin/scalars/tags")[RESUMED].keys() == tags.keys()
        for tag in tags:
            whole, resumed = scalars(other, "whole", tag), scalars(link, RESUMED, tag)
            if tag in NOISY:
                whole, resumed = ([step for step, _ in curve] for curve in (whole, resumed))
            elif tag in BY_SECONDS:
                whole, resumed = ([loss for _, loss in curve] for curve in (whole, resumed))
            assert resumed == whole, tag
        seconds = [value for _, value in scalars(link, RESUMED, "train/seconds")]
        assert seconds == sorted(seconds)
        for tag in ("setup/config", "setup/model", "sample"):
            assert len(text(link, RESUMED, tag)) == len(text(other, "whole", tag))


def test_train_and_val_share_their_steps_and_their_tokens(link: str, sweep: Sweep):
    steps = {
        tag: [step for step, _ in scalars(link, GPT, tag)] for tag in ("val/loss", "train/loss")
    }
    assert steps == {"val/loss": [0, 8, 16, 24], "train/loss": [0, 4, 8, 12, 16, 20, 24]}
    for tag, at in steps.items():
        by_tokens = scalars(link, GPT, f"vs_tokens/{tag}")
        assert by_tokens == [(32 * step, loss) for step, loss in scalars(link, GPT, tag)]
        assert len(by_tokens) == len(at)
    flops = dict(scalars(link, GPT, "train/flops"))
    per_token = flops_per_token(checked(sweep.runs[GPT].config), 65)
    assert list(flops) == steps["val/loss"]
    for tag in ("val/loss", "train/loss_eval"):
        losses = scalars(link, GPT, tag)
        assert scalars(link, GPT, f"vs_flops/{tag}") == [
            (round(32 * step * per_token), loss) for step, loss in losses
        ]
        by_seconds = scalars(link, GPT, f"vs_milliseconds/{tag}")
        assert [loss for _, loss in by_seconds] == [loss for _, loss in losses]
        assert [at for at, _ in by_seconds] == sorted(at for at, _ in by_seconds)
    for step, count in flops.items():
        assert count == pytest.approx(32 * step * per_token, rel=1e-6)
    gap = dict(scalars(link, GPT, "val/loss_gap"))
    train = dict(scalars(link, GPT, "train/loss_eval"))
    for step, loss in scalars(link, GPT, "val/loss"):
        assert gap[step] == pytest.approx(loss - train[step], abs=1e-6)


def test_tags_are_few_and_losses_come_first(link: str):
    of_head = get(link, "plugin/scalars/tags")[HEAD]
    assert sorted(of_head) == [
        *("train/flops", "train/loss", "train/loss_eval", "train/lr", "train/seconds"),
        "train/tokens_per_second",
        *(
            "val/bpb",
            "val/bpb_full",
            "val/bpc",
            "val/bpc_full",
            "val/loss",
            "val/loss_best",
            "val/loss_full",
            "val/loss_gap",
        ),
        *("vs_flops/train/loss_eval", "vs_flops/val/loss"),
        *("vs_milliseconds/train/loss_eval", "vs_milliseconds/val/loss"),
        *("vs_tokens/train/loss", "vs_tokens/val/loss"),
    ]


def test_every_custom_chart_finds_its_curves(link: str):
    categories = get(link, "plugin/custom_scalars/layout")["category"]
    assert {c["title"]: [chart["title"] for chart in c["chart"]] for c in categories} == {
        title: list(charts) for title, charts in CHARTS.items()
    }
    matched = []
    for chart in (chart for category in categories for chart in category["chart"]):
        for pattern in chart["multiline"]["tag"]:
            answer = get(link, "plugin/custom_scalars/scalars", tag=pattern, run=GPT)
            assert answer["regex_valid"]
            assert answer["tag_to_events"], pattern
            matched += answer["tag_to_events"]
    assert sorted(matched) == sorted(set(matched))  # anchored: train/loss finds no train/loss_eval
    assert {"train/loss", "val/loss", "val/loss_gap", "train/lr"} <= set(matched)


def test_text_tells_config_model_and_samples(link: str, sweep: Sweep):
    ((step, config),) = text(link, GPT, "setup/config")
    assert step == 0
    stored = sweep.runs[GPT].config
    assert yaml.safe_load(config) == {k: stored[k] for k in yaml.safe_load(config)}
    assert stored.keys() - yaml.safe_load(config).keys() <= {
        *("output_dir", "run", "run_dir", "resume", "pause_at", "dry_run", "sweep")
    }
    ((_, model),) = text(link, GPT, "setup/model")
    assert "blocks.1.attention" in model
    samples = text(link, GPT, "sample")
    assert [step for step, _ in samples] == [8, 16, 24]
    assert samples[-1][1] == (sweep.runs[GPT].path / "sample.txt").read_text()


def test_hostile_text_is_shown_as_it_was_typed(link: str, sweep: Sweep):
    (_, *_, (step, shown)) = text(link, "hostile", "sample")
    made = (sweep.runs["hostile"].path / "sample.txt").read_bytes().decode()
    assert step == 24
    assert set(shown) - {"\n"} >= set("<>&`*_#|") & set(made)
    assert shown.replace("\n", "") == _seen(made).replace("\n", "")


def _seen(typed: str) -> str:
    """Control characters by their pictures, tabs as spaces."""
    shown = "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\t\n" else c for c in typed)
    return shown.replace("\x7f", "\u2421").expandtabs(4)


def images(link: str, run: str, tag: str) -> list[tuple[int, np.ndarray]]:
    found = []
    for point in get(link, "plugin/images/images", run=run, tag=tag, sample=0):
        query = dict(urllib.parse.parse_qsl(point["query"]))
        png = get(link, "plugin/images/individualImage", **query)
        found.append((point["step"], np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))))
    return found


def test_pictures_for_those_models_that_have_them(link: str):
    tags = {run: sorted(found) for run, found in get(link, "plugin/images/tags").items() if found}
    layers = ["view/attention/layer_1", "view/attention/layer_2"]
    assert tags == {
        "sweeps/mixed/bigram": ["view/bigram"],
        "sweeps/mixed/bag_of_words": ["view/averages/layer_1"],
        HEAD: ["view/attention/layer_1"],
        **dict.fromkeys((GPT, RESUMED, "failed"), layers),
        "hostile": ["view/bigram"],
    }


def test_pictures_follow_training_but_averages_never_change(link: str):
    attention = images(link, HEAD, "view/attention/layer_1")
    averages = images(link, "sweeps/mixed/bag_of_words", "view/averages/layer_1")
    for pictures in (attention, averages):
        assert [step for step, _ in pictures] == [16, 24]  # every second evaluation, and the last
    assert (attention[0][1] != attention[-1][1]).any()
    assert (averages[0][1] == averages[-1][1]).all()


def test_histograms_are_off_unless_switched_on(link: str):
    tags = {run for run, found in get(link, "plugin/histograms/tags").items() if found}
    assert tags == {GPT}
    found = get(link, "plugin/histograms/tags")[GPT]
    for family in ("weights", "weights_gradient", "weights_update"):
        assert f"{family}/blocks.0.attention.query_key_value.weight" in found
    ratio = scalars(link, GPT, "weights_update_ratio/lm_head.weight")
    assert [step for step, _ in ratio] == [8, 16, 24]
    # Adam's step is about lr = 1e-3 at every weight, and these are about 0.02.
    assert all(0.01 < value < 0.2 for _, value in ratio)


def test_projector_labels_every_token(link: str, sweep: Sweep):
    runs = get(link, "plugin/projector/runs")
    assert set(runs) == sweep.runs.keys() - {"sweeps/mixed/ngram", "failed"}
    query = {"run": HEAD, "name": "token embedding"}
    labels = get(link, "plugin/projector/metadata", **query, num_rows=1000).decode().splitlines()
    assert labels[:3] == ["↵", "␣", "!"]
    assert labels[-1] == "z"
    vectors = np.frombuffer(get(link, "plugin/projector/tensor", **query), dtype=np.float32)
    assert len(vectors) == 65 * 32
    assert len(labels) == 65


def test_the_reader_in_python_sees_the_same(link: str, sweep: Sweep):
    with Board(sweep, "--load_fast=false") as other:
        assert rows(other) == rows(link)
        for tag in ("train/loss", "val/loss", "vs_tokens/val/loss", "val/loss_full"):
            assert scalars(other, RESUMED, tag) == scalars(link, RESUMED, tag)
        assert math.isfinite(scalars(other, RESUMED, "val/loss_full")[0][1])
