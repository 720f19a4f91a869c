"""One job of a sweep: its row in TensorBoard's table, and the directory that it is kept in."""

from pathlib import Path

import pytest
from small import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

FAILURE, SUCCESS = api_pb2.STATUS_FAILURE, api_pb2.STATUS_SUCCESS


@pytest.fixture
def words(text) -> list[str]:
    return ["-m", *SMALL, "corpus=file", f"corpus.path={text}", "sweep.name=it"]


def row(folder: Path) -> tuple[dict, int]:
    """What TensorBoard's table has of a run: its hyperparameters, and how it ended."""
    events = EventAccumulator(str(folder)).Reload()
    tags = events.summary_metadata
    start = metadata.parse_session_start_info_plugin_data(
        tags[metadata.SESSION_START_INFO_TAG].plugin_data.content
    )
    end = metadata.parse_session_end_info_plugin_data(
        tags[metadata.SESSION_END_INFO_TAG].plugin_data.content
    )
    assert metadata.EXPERIMENT_TAG in tags  # any run may be the one whose columns are taken
    values = {
        name: value.string_value if value.HasField("string_value") else value.number_value
        for name, value in start.hparams.items()
    }
    return values, end.status


def test_every_job_of_a_sweep_has_a_row_in_the_table(lab, words):
    axes = ["optimizer.lr=0.5,1", "data.block_size=8,100000000"]
    status, _, err = lab("train", *words, *axes)
    assert status == 2
    assert "2 of 4 jobs failed" in err
    rows = {path.name: row(path) for path in Path("outputs/sweeps/it").glob("*block_size*/")}
    assert len(rows) == 4
    assert sorted(end for _, end in rows.values()) == sorted([SUCCESS, FAILURE] * 2)
    for name, (values, _) in rows.items():
        assert values["model"] == "Bigram"
        assert values["block_size"] == (8 if "block_size=8," in name else 100000000)
        assert values["lr"] == (0.5 if "lr=0.5" in name else 1)
        assert "n_layer" not in values  # which a bigram does not have


def test_a_refused_job_that_is_trained_in_the_end_has_one_row(lab, words, text):
    whole = text.read_text()
    text.write_text("too short")
    assert lab("train", *words, "seed=1")[0] == 2
    (folder,) = Path("outputs/sweeps/it").glob("*/run.json")
    assert row(folder.parent)[1] == FAILURE
    text.write_text(whole)
    assert lab("train", *words, "seed=1")[0] == 0
    assert row(folder.parent)[1] == SUCCESS
    assert len(list(folder.parent.glob("*.begin"))) == len(list(folder.parent.glob("*.end"))) == 1


def test_a_refused_job_writes_no_event_file_where_none_is_wanted(lab, words):
    assert lab("train", *words, "data.block_size=8,99999", "logger.tensorboard=null")[0] == 2
    assert len(list(Path("outputs/sweeps/it").glob("*/run.json"))) == 2
    assert not list(Path("outputs").rglob("events.*"))


@pytest.mark.parametrize("more", [[], ["hydra/sweeper=optuna", "optimizer.lr=1,2"]])
def test_a_sweep_that_is_refused_as_a_whole_leaves_nothing(lab, words, more):
    status, _, err = lab("train", *words, "data.batch_size=0", "seed=1,2", *more)
    assert (status, err.count("\n")) == (2, 1)
    assert "jobs is refused, the first: data.batch_size=0: input should be" in err
    assert not Path("outputs").exists()
