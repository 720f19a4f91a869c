"""Run directories that an earlier lmlab left: they stay readable, whatever keys came since.

tests/kept holds them as they were written, less what nobody reads back.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from comparing import checkpoint
from small import ROOT, checked

from lmlab.config import schema
from lmlab.config.check import check_plain
from lmlab.config.fingerprint import fingerprint
from lmlab.config.stored import FIRST_NAMES, MOVED, NOW_OTHERWISE, with_todays_defaults
from lmlab.data.tokens import text_of
from lmlab.runs.continuing import run_begun_before
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.table.settings import runs_frame
from lmlab.training.beginning.restored import restore

KEPT = ROOT / "tests/kept"
PARAMETRISATIONS = "lmlab.training.optimizers.parametrisation"
NAMES = sorted(path.parent.name for path in KEPT.glob("*/run.json"))


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(KEPT, tmp_path, dirs_exist_ok=True)
    return tmp_path


def full_loss(run: RunDirectory) -> float:
    """The loss of every val token but the first, each predicted once, from the definition."""
    trained = restore(run, "last")
    ids = text_of(trained.config).ids.whole().long()
    val = ids[int((1 - trained.config.data.val_fraction) * len(ids)) :]
    block_size, total, done = trained.config.data.block_size, 0.0, 0
    while done < len(val) - 1:
        end = min(done + block_size, len(val) - 1)
        with torch.no_grad():
            logits = trained.model(val[end - block_size : end][None])[0, done - end :]
        total += F.cross_entropy(logits.double(), val[done + 1 : end + 1], reduction="sum").item()
        done = end
    return total / (len(val) - 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_config_is_read_with_todays_defaults(name):
    stored = with_todays_defaults(yaml.safe_load((KEPT / name / "config.yaml").read_text()))
    assert fingerprint(check_plain(stored, schema.Train).plain()) == fingerprint(stored)


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_run_keeps_its_fingerprint_unless_it_is_computed_otherwise_today(name):
    run = RunDirectory(KEPT / name)
    same = fingerprint(run.config) == run.record["fingerprint"]
    assert same == (FIRST_NAMES[run.config["schedule"]["_target_"]] not in NOW_OTHERWISE)


def test_a_run_of_another_schedule_is_not_taken_for_todays(lab, kept):
    status, out, _ = lab("train", "run=gpt-interrupted")
    assert status == 0
    assert "begun by an earlier lmlab" in out
    (kept / "gpt").rename(kept / "mine")
    (kept / "runs").mkdir()
    (kept / "mine").rename(kept / "runs" / "gpt")
    config = {
        **RunDirectory(kept / "runs/gpt").config,
        "output_dir": ".",
        "name": "runs",
        "run_dir": None,
    }
    assert run_begun_before(checked(config)) is None
    config["schedule"] = RunDirectory(kept / "bigram").config["schedule"]
    RunDirectory(kept / "runs/gpt").store(config)
    assert run_begun_before(checked(config)) is None  # its record still has the other fingerprint
    RunDirectory(kept / "runs/gpt").update(fingerprint=fingerprint(config))
    assert run_begun_before(checked(config)).path == Path("runs/gpt")


@pytest.mark.parametrize("key", ["eval.stride", "trainer.compile", "checkpoint", "from"])
def test_a_key_that_came_later_has_todays_default(key):
    stored = RunDirectory(KEPT / "gpt").config
    *nodes, last = key.split(".")
    node = stored
    for name in nodes:
        node = node[name]
    today = node.pop(last)
    completed = with_todays_defaults(stored)
    check_plain(completed, schema.Train)
    for name in key.split("."):
        completed = completed[name]
    assert completed == today


@pytest.mark.parametrize("name", NAMES)
def test_evaluate_and_generate_read_a_kept_run(lab, kept, name):
    status, out, err = lab("evaluate", f"run={name}")
    assert (status, err) == (0, "")
    assert f"val/loss_full  {full_loss(RunDirectory(kept / name)):.4f} nats" in out
    status, out, err = lab("generate", f"run={name}", "prompt=fox", "max_new_tokens=4", "seed=1")
    assert (status, err) == (0, "")
    assert out.startswith("fox")


def test_an_interrupted_kept_run_ends_as_it_would_have(lab, kept):
    status, _, err = lab("train", "run=gpt-interrupted")
    assert (status, err) == (0, "")
    ended, whole = RunDirectory(kept / "gpt-interrupted"), RunDirectory(kept / "gpt")
    # They were written on another machine, whose products may round otherwise, and when the last
    # window of the full pass, which is moved back, counted whole.
    metrics, before = ended.record["metrics"], whole.record["metrics"]
    assert metrics["val/loss_full"] == pytest.approx(full_loss(ended), rel=1e-6)
    both = [k for k in before if k not in ("val/loss_full", "val/bpc_full")]
    assert {k: metrics[k] for k in both} == pytest.approx({k: before[k] for k in both}, rel=1e-6)
    left, right = checkpoint(ended)["state_dict"], checkpoint(whole)["state_dict"]
    for name in right:
        torch.testing.assert_close(left[name], right[name])
    assert (ended.path / "sample.txt").read_text() == (whole.path / "sample.txt").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_bits_of_the_full_pass_are_read_by_their_name_of_today(kept, name):
    """What run.json once called val/bpc was val/bpc_full in metrics.csv."""
    *_, last = csv.DictReader((kept / name / "metrics.csv").open())
    written = json.loads((kept / name / "run.json").read_text())["metrics"]
    read = RunDirectory(kept / name).record["metrics"]
    if written.get("val/loss_full") is None:  # its val/bpc was that of val/loss
        assert read == written
        return
    assert read["val/bpc_full"] == written["val/bpc"] == float(last["val/bpc_full"])
    assert "val/bpc" not in read
    assert runs_frame(kept / name)["val/bpc_full"].tolist() == [written["val/bpc"]]


def test_a_finished_kept_run_is_done(lab, kept):
    status, out, _ = lab("train", "run=bigram")
    assert status == 0
    assert "is done already, after 12 steps" in out


@pytest.mark.parametrize("name", NAMES)
def test_loggers_that_a_stored_config_switches_on_have_todays_names(name):
    stored = yaml.safe_load((KEPT / name / "config.yaml").read_text())
    assert stored["logger"] == {"tensorboard": True, "csv": True}
    loggers = RunDirectory(KEPT / name).config["logger"]
    assert {key: node["_target_"].rpartition(".")[2] for key, node in loggers.items()} == {
        "tensorboard": "EventFiles",
        "csv": "MetricsCSV",
    }


def test_what_came_later_counts_for_nothing_at_what_was_done_before():
    """A stored config of before and one of today that says the same have one fingerprint."""
    stored = RunDirectory(KEPT / "gpt").config
    today = {**stored, "parametrisation": {"_target_": f"{PARAMETRISATIONS}.Standard"}}
    today["trainer"] = {**stored["trainer"], "num_nodes": 1}
    today["teacher"] = {"runs": None, "share": 0.5}
    assert fingerprint(today) == fingerprint(stored)
    today["parametrisation"] = {"_target_": f"{PARAMETRISATIONS}.MuP"}
    assert fingerprint(today) != fingerprint(stored)


@pytest.mark.parametrize(("before", "today"), MOVED.items())
def test_a_class_that_has_moved_keeps_its_fingerprint(before, today):
    stored = RunDirectory(KEPT / "gpt").config
    assert fingerprint({**stored, "model": {"_target_": before}}) == fingerprint(
        {**stored, "model": {"_target_": today}}
    )
