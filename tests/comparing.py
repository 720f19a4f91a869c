"""Looking into run directories: what must be equal, and what a clock decides."""

import csv
from typing import Any

import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from lmlab.runs.checkpoint import newest_whole
from lmlab.runs.directory import RunDirectory

NOISY = ("train/tokens_per_second", "train/seconds")  # the metrics that a clock decides
BY_CLOCK = ("seconds", *NOISY)  # the columns of metrics.csv
BY_SECONDS = ("vs_milliseconds/train/loss_eval", "vs_milliseconds/val/loss")


def checkpoint(run: RunDirectory) -> dict[str, Any]:
    found = newest_whole(run)
    assert found is not None
    return found[1]


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return checkpoint(run)["state_dict"]


def curves(run: RunDirectory) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in BY_CLOCK} for row in csv.DictReader(file)]


def tensorboard(run: RunDirectory) -> dict[str, list[tuple[int, Any]]]:
    """Every curve and sampled text as TensorBoard's own backend reads it."""
    events = EventAccumulator(str(run.path), size_guidance={"tensors": 0}).Reload()
    return {
        tag: [(e.step, make_ndarray(e.tensor_proto).tolist()) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if tag not in (*NOISY, *BY_SECONDS)
    }


def same(a: object, b: object) -> bool:
    """Equal bit for bit, through any nesting."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(whole: RunDirectory, other: RunDirectory) -> None:
    """Everything that a run leaves behind is equal, down to the last bit."""
    left, right = checkpoint(whole), checkpoint(other)
    for part in ("state_dict", "optimizer_states", "random", "global_step", "since_log"):
        assert same(left[part], right[part]), part
    assert same(left["TextDataModule"], right["TextDataModule"])
    assert same(left["callbacks"], right["callbacks"])
    assert same(left.get("ema"), right.get("ema"))
    assert whole.record["metrics"] == other.record["metrics"]
    assert whole.record["best"] == other.record["best"]
    assert whole.record["status"] == other.record["status"] == "done"
    assert curves(whole) == curves(other)
    shown = tensorboard(other)
    for tag, curve in tensorboard(whole).items():
        assert curve == shown[tag], tag
    for name in ("sample.txt", "checkpoints/best.ckpt"):
        assert (whole.path / name).exists() == (other.path / name).exists()
    assert (whole.path / "sample.txt").read_bytes() == (other.path / "sample.txt").read_bytes()
