"""eval.full: how much of val is predicted at the end, and what is said beside the figure."""

import json

import pytest
import torch
import torch.nn.functional as F
from comparing import curves
from small import branch, train

from lmlab.config.fingerprint import fingerprint
from lmlab.data.tokens import text_of
from lmlab.errors import LabError
from lmlab.handles import Run
from lmlab.runs.directory import RunDirectory
from lmlab.runs.record import tokens_of_result
from lmlab.sweeps.report.leaderboard import leaderboard
from lmlab.sweeps.table.settings import load
from lmlab.training.beginning.restored import restore

HEAD = ["model=head", "trainer.max_steps=12"]


def loss_of_the_first(run: RunDirectory, n: int) -> float:
    """Nats per token, in windows side by side, the last moved back."""
    trained = restore(run, "last")
    ids = text_of(trained.config).ids.whole().long()
    val = ids[int((1 - trained.config.data.val_fraction) * len(ids)) :][: n + 1]
    total, done = 0.0, 0
    while done < n:
        end = min(done + 8, n)
        with torch.no_grad():
            logits = trained.model(val[end - 8 : end][None])[0, done - end :]
        total += F.cross_entropy(logits.double(), val[done + 1 : end + 1], reduction="sum").item()
        done = end
    return total / n


@pytest.fixture
def of_some(experiment) -> RunDirectory:
    return experiment(*HEAD, "eval.full=1001")


def test_a_limit_is_kept_and_said(of_some, lab):
    metrics, n_all = of_some.record["metrics"], 11_153
    assert metrics["val/loss_full"] == pytest.approx(loss_of_the_first(of_some, 1001), rel=1e-6)
    assert of_some.record["full_pass"] == {"tokens": 1001, "of": n_all}
    words = f"the first 1,001 of {n_all:,} val tokens, each predicted once"
    assert tokens_of_result(of_some.record) == words
    assert f"({words})" in repr(Run(of_some.path))
    assert f"({words})" in lab("show", str(of_some.path))[1]
    assert any("the first 1,001 tokens" in note for note in leaderboard(load([of_some.path])).notes)
    # evaluate takes all of val, and says over how many.
    whole = Run(of_some.path).evaluate()["val/loss_full"]
    assert whole == pytest.approx(loss_of_the_first(of_some, n_all), rel=1e-6)


def test_without_a_pass_the_last_evaluation_is_the_result(experiment, lab):
    words = [*HEAD, "eval.full=false", "tasks=text", "eval.tasks_every=0"]
    run = experiment(*words, "callbacks=ema")
    metrics, last = run.record["metrics"], curves(run)[-1]
    assert run.record["status"] == "done"
    assert not [name for name in metrics if "_full" in name]
    assert metrics["val/loss"] == float(last["val/loss"])
    assert "tasks/word/accuracy" in metrics  # asked at the end all the same
    printed = lab("show", str(run.path))[1]
    assert f"val/loss {metrics['val/loss']:.4f} nats per token, val/bpc" in printed
    assert "(its last evaluation; eval.full=false)" in printed
    with pytest.raises(LabError, match=r"callbacks\.dynamic comes behind the full pass"):
        experiment(*HEAD, "eval.full=false", "callbacks=dynamic")


def test_runs_of_different_ends_are_compared_by_their_evaluations(experiment, of_some):
    whole = experiment(*HEAD, "seed=2")
    table = load([whole.path, of_some.path])
    assert table.metric == "best val/loss"
    notes = " ".join(leaderboard(load([whole.path, of_some.path], "val/loss_full")).notes)
    assert "not to be compared: eval.full differs" in notes
    assert load([whole.path]).metric == "val/loss_full"


def test_the_default_moves_no_fingerprint_and_another_end_is_another_run(experiment):
    run = experiment(*HEAD)
    stored = json.loads(json.dumps(run.config))
    assert stored["eval"].pop("full") is True
    assert fingerprint(stored) == fingerprint(run.config) == run.record["fingerprint"]
    child = branch(run, trainer__max_steps=13, eval__full=100)
    assert fingerprint(child) != fingerprint({**child, "eval": stored["eval"]})
    assert train(child).record["full_pass"]["tokens"] == 100


@pytest.mark.parametrize(
    ("word", "says"),
    [("1", "eval.full"), ("7", "eval.full=7 is less than a window"), ("-3", "eval.full")],
)
def test_less_than_a_window_is_refused(experiment, word, says):
    with pytest.raises(LabError, match=says):
        experiment(*HEAD, f"eval.full={word}")


def test_a_dry_run_says_what_the_end_takes(lab, tinyshakespeare_path):
    text = ["corpus=file", f"corpus.path={tinyshakespeare_path}"]
    for words, says in (
        (
            [],
            "at the end, 111,539 val tokens in windows of 64 every 64: the operations of 48",
        ),
        (["eval.full=6400"], "at the end, the first 6,400 of 111,539 val tokens in windows of 64"),
        (["eval.full=false"], "none (eval.full=false): the result is val/loss of the last"),
    ):
        status, printed, _ = lab("train", "dry_run=true", *text, *words)
        assert (status, says in " ".join(printed.split())) == (0, True)
