"""What TensorBoard is told, and the files that it is told in."""

import html
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import cut, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.hparams import api_pb2, metadata

from lmlab.config import build
from lmlab.display.for_tensorboard.event_files import (
    PREFIX,
    Records,
    forget_after,
    next_number,
    numbered,
)
from lmlab.display.for_tensorboard.summaries import (
    LINE,
    ending,
    hyperparameters,
    preformatted,
    refused,
    values_of_columns,
)
from lmlab.display.loggers import CurveWriter

TEXTS = st.text(st.sampled_from("<>&/`*_#|[]()!\\\"'$ {}=-~\n\t\r\x00\x7fab1é中") | st.characters())


@given(TEXTS)
def test_any_text_is_shown_as_it_was_typed(typed: str):
    page = markdown_to_safe_html(preformatted(typed))
    found = re.fullmatch(r"<pre>\n?([^<>]*)</pre>", page)
    assert found
    shown = html.unescape(found[1])
    # What TensorBoard itself makes of white space: tabs are spaces, blank lines are empty.
    visible = [c for c in typed if c.isprintable() and c != " "]
    assert [c for c in shown if c.isprintable() and c != " " and c not in PICTURES] == [
        c for c in visible if c not in PICTURES
    ]
    assert shown.count("\n") >= typed.count("\n")


PICTURES = {chr(0x2400 + code) for code in range(0x22)}


def test_lines_too_long_for_a_screen_go_on_in_the_next():
    page = preformatted("x" * (2 * LINE + 1) + "\n\nend")
    assert page == f"<pre>\n\n{'x' * LINE}\n{'x' * LINE}\nx\n\nend</pre>"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("done", api_pb2.STATUS_SUCCESS),
        ("pruned", api_pb2.STATUS_SUCCESS),
        ("failed", api_pb2.STATUS_FAILURE),
        ("interrupted", api_pb2.STATUS_FAILURE),
    ],
)
def test_status_of_a_run_that_ended(status: str, expected: int):
    (value,) = ending(status).value
    content = value.metadata.plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(content).status == expected


CHOICES = [
    *("bigram", "bag_of_words", "head", "multi_head", "feed_forward", "blocks_without_residual"),
    *("residual", "layer_norm", "gpt", "ngram"),
]


def test_every_choice_fills_every_column_with_one_type(composed):
    def shown(*words: str) -> dict:
        config = composed(*words)
        return hyperparameters(
            config, "char", build.model(config["model"], 65, config["data"]["block_size"])
        )

    rows = [shown(f"model={model}") for model in CHOICES]
    rows += [
        shown("model=bigram", f"optimizer={name}", "schedule=cosine")
        for name in ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")
    ]
    rows.append(shown("model=head", "optimizer=muon"))
    assert rows[-1]["optimizer"] == "Muon + AdamW"
    rows.append(shown("corpus=file", "corpus.path=a/b.txt"))
    types = {name: {type(row[name]) for row in rows} - {type(None)} for name in rows[0]}
    assert {len(of_column) for of_column in types.values()} == {1}
    assert all(row.keys() == types.keys() for row in rows)
    assert rows[-1]["corpus"] == "b.txt"
    by_model = dict(zip(CHOICES, rows, strict=False))
    heads = [by_model[model]["n_head"] for model in CHOICES]
    assert heads == [None, None, 1, 4, 4, 4, 4, 4, 4, None]
    assert by_model["residual"]["model"] == "ResidualBlock"
    assert [by_model[model]["optimizer"] for model in ("ngram", "bigram")] == ["none", "AdamW"]
    bigram, ngram = by_model["bigram"], by_model["ngram"]
    assert {name for name, value in bigram.items() if value is None} == {
        *("n_layer", "n_head", "n_embd", "dropout")
    }
    steps = {"lr", "weight_decay", "max_steps", "parameters"}  # it counts
    assert steps <= {name for name, value in ngram.items() if value is None}
    # A 0 takes away the logarithmic scale of a column, so only what is 0 has it.
    assert {name for row in rows for name, value in row.items() if value == 0} <= {
        *("dropout", "weight_decay")
    }
    offered = values_of_columns()
    for row in rows[:-1]:
        assert all(row[column] in values for column, values in offered.items())


def test_files_are_read_in_the_order_they_were_written(tmp_path):
    for start in range(12):  # so many starts of one run, all within a second
        writer = CurveWriter(numbered(tmp_path, next_number(tmp_path)), purge_step=10 * start)
        for step in range(10 * start, 10 * start + 15):  # the last five are written again
            writer.add_scalar("loss", 100 * start + step, step)
        writer.close()
        writer.add_scalar("later", start, 10 * start)  # a closed file is gone on with
        writer.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    read = [(point.step, point.value) for point in events.Scalars("loss")]
    expected = [(step, 100 * min(step // 10, 11) + step) for step in range(125)]
    assert read == [(step, float(value)) for step, value in expected]
    assert [point.step for point in events.Scalars("later")] == list(range(0, 120, 10))
    assert len(list(tmp_path.iterdir())) == 12


def test_a_row_can_be_made_of_any_config(composed):
    whole = composed("model=gpt")
    full = hyperparameters(
        whole, "char", build.model(whole["model"], 65, whole["data"]["block_size"])
    )
    assert hyperparameters(whole) == {**full, "parameters": None}
    assert hyperparameters({}).keys() == full.keys()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.dictionaries(
            st.sampled_from(["_target_", "lr", "layer", "rules", "n_head", "path", "x"]), inner
        ),
        max_leaves=8,
    ),
    st.sampled_from(["model", "optimizer", "data", "trainer", "tokenizer", "corpus", "seed"]),
)
def test_a_refused_config_may_hold_anything(node, key: str):
    columns, row, *texts = refused({key: node}, "it was refused", "2026-01-02T03:04:05+00:00")
    assert len(columns.value[0].metadata.plugin_data.content) > 100
    content = row.value[0].metadata.plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    assert {"model", "optimizer", "precision"} <= values.keys() <= hyperparameters({}).keys()
    assert len(texts) == 2


def events_in(path: Path) -> list[Event]:
    return [Event.FromString(data) for data in RawEventFileLoader(str(path)).Load()]


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 9), st.integers(0, 40))
def test_later_events_are_forgotten_and_what_was_cut_off(tmp_path_factory, steps, last, missing):
    path = tmp_path_factory.mktemp("events") / f"{PREFIX}001"
    records = Records(path)
    for step in steps:
        records.add_event(Event(step=step, wall_time=1.0))
    records.close()
    path.write_bytes(path.read_bytes()[: -missing or None])
    whole = events_in(path)
    forget_after(path.parent, last)
    assert events_in(path) == [event for event in whole if event.step <= last]


def test_a_text_stands_once_in_the_files_of_a_run_that_goes_on(experiment):
    run = experiment("model=bigram", "eval.every=6", "checkpoint.keep=9")
    before = texts(run.path)
    assert [*before.values()] == [1] * 4
    cut(run, 12)
    train({**run.config, "run": str(run.path)})
    assert texts(run.path) == before


def texts(folder: Path) -> Counter[int]:
    """How often each step has a sample, by whatever reads all of the files."""
    return Counter(
        event.step
        for path in sorted(folder.glob(f"{PREFIX}*"))
        for event in events_in(path)
        for value in event.summary.value
        if value.tag.startswith("sample")
    )
