"""Run directories that somebody damaged, mixed up or booby-trapped."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small import SMALL

from lmlab.data.tokenizer import CharTokenizer
from lmlab.runs import Run

FOX = [*SMALL, "eval.every=2", "corpus=file", "corpus.path=text.txt", "name=fox"]


class Bomb:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.fixture
def run(lab, text) -> Run:
    status, _, err = lab("train", *FOX)
    assert (status, err) == (0, "")
    (path,) = Path("outputs/fox").iterdir()
    return Run(path)


def change(run: Run, edit: Callable[[dict], None]) -> None:
    """Edit what the run's only checkpoint holds."""
    (path,) = run.checkpoints()
    checkpoint = torch.load(path, weights_only=True)
    edit(checkpoint)
    torch.save(checkpoint, path)


def with_pickle_bomb(run: Run) -> None:
    change(run, lambda checkpoint: checkpoint.update(extra=Bomb()))


def with_bare_pickle_bomb(run: Run) -> None:
    import pickle

    run.checkpoints()[0].write_bytes(pickle.dumps(Bomb()))


def with_code_as_model(run: Run) -> None:
    def edit(checkpoint: dict) -> None:
        checkpoint["config"]["model"] = {"_target_": "os.mkdir", "path": "exploded"}

    change(run, edit)


def with_code_inside_a_model(run: Run) -> None:
    def edit(checkpoint: dict) -> None:
        hidden = {"_target_": "os.mkdir", "path": "exploded"}
        checkpoint["config"]["model"] = {"_target_": "torch.nn.Identity", "x": hidden}

    change(run, edit)


def with_unknown_key(run: Run) -> None:
    change(run, lambda checkpoint: checkpoint["config"].update(sede=3))


def with_another_tokenizer(run: Run) -> None:
    other = CharTokenizer.fit(["of another run"]).to_json()
    change(run, lambda checkpoint: checkpoint.update(tokenizer=other))


def with_damaged_tokenizer(run: Run) -> None:
    change(run, lambda checkpoint: checkpoint.update(tokenizer={"kind": "char", "vocabulary": 3}))


def with_code_as_tokenizer(run: Run) -> None:
    state = {"kind": "mine", "class": "os.mkdir", "path": "exploded"}
    change(run, lambda checkpoint: checkpoint.update(tokenizer=state))


def with_a_tokenizer_of_nowhere(run: Run) -> None:
    state = {"kind": "mine", "class": "nosuch.package.Tokens"}
    change(run, lambda checkpoint: checkpoint.update(tokenizer=state))


def with_nothing_of_ours(run: Run) -> None:
    torch.save({"weights": torch.zeros(3)}, run.checkpoints()[0])


def cut_off(run: Run) -> None:
    (path,) = run.checkpoints()
    path.write_bytes(path.read_bytes()[:-500])


def emptied(run: Run) -> None:
    run.checkpoints()[0].write_bytes(b"")


@pytest.mark.parametrize("command", ["evaluate", "generate"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (with_pickle_bomb, "is refused: loading it would run code"),
        (with_bare_pickle_bomb, "is damaged or cut off"),
        (with_code_as_model, "model"),
        (with_code_inside_a_model, "model"),
        (with_unknown_key, "unknown key sede=3; did you mean seed?"),
        (with_another_tokenizer, "does not fit the model in its own config"),
        (with_damaged_tokenizer, "the stored char tokenizer is damaged"),
        (with_code_as_tokenizer, "the tokenizer's class os.mkdir: not a lmlab"),
        (with_a_tokenizer_of_nowhere, "class nosuch.package.Tokens cannot be imported"),
        (with_nothing_of_ours, "was not written by lmlab"),
        (cut_off, "is damaged or cut off"),
        (emptied, "is damaged or cut off"),
    ],
)
def test_bad_checkpoint_is_refused_in_one_line(lab, run, command, damage, expected):
    damage(run)
    status, out, err = lab(command, f"run={run.path}")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("run.json", b"not json", "run.json cannot be read"),
        ("run.json", b"[1, 2]", "is not a run's record"),
        ("config.yaml", b"]:[", "config.yaml cannot be read"),
        ("config.yaml", b"- 1", "is not a run's config"),
        ("config.yaml", b"!!python/object/apply:os.mkdir [exploded]", "cannot be read"),
        ("config.yaml", b"seed: 1", "is missing"),
    ],
)
def test_damaged_record_or_config_is_refused_when_training_goes_on(
    lab, run, name, content, expected
):
    (run.path / name).write_bytes(content)
    status, _, err = lab("train", f"run={run.path}", "trainer.max_steps=4")
    assert status == 2
    assert expected in err
    assert err.count("\n") == 1
    assert not Path("exploded").exists()


def test_generate_needs_neither_record_nor_config_file(lab, run):
    (run.path / "run.json").write_bytes(b"not json")
    status, out, _ = lab("generate", f"run={run.path}", "prompt=fox", "max_new_tokens=3")
    assert status == 0
    assert out.startswith("fox")


def test_moved_run_is_as_good_as_before(lab, run, tmp_path):
    before = lab("generate", f"run={run.path}", "prompt=fox", "max_new_tokens=9")
    run.path.rename(tmp_path / "elsewhere")
    assert lab("generate", "run=elsewhere", "prompt=fox", "max_new_tokens=9") == before


def test_evaluate_refuses_windows_that_leave_tokens_out(lab, run):
    status, out, err = lab("evaluate", f"run={run.path}", "stride=80")
    assert (status, out) == (2, "")
    assert err == "error: stride=80 skips tokens: at most 8, the run's data.block_size\n"
    assert lab("evaluate", f"run={run.path}", "stride=8")[0] == 0


def test_a_corpus_that_moved_goes_on_by_its_text(lab, run):
    Path("text.txt").rename("moved.txt")
    words = [f"run={run.path}", "trainer.max_steps=4"]
    Path("other.txt").write_text("another text altogether\n" * 40)
    status, _, err = lab("train", *words, "corpus.path=other.txt")
    assert (status, err.count("\n")) == (2, 1)
    assert "its corpus has changed" in err
    assert (lab("train", *words, "corpus.path=moved.txt")[0], run.record["step"]) == (0, 4)


def test_evaluate_notices_that_the_corpus_changed(lab, run):
    Path("text.txt").write_text("0123456789" * 100)
    status, _, err = lab("evaluate", f"run={run.path}")
    assert status == 2
    assert "its corpus has changed" in err


def test_training_does_not_go_on_with_another_text(lab, run):
    text = Path("text.txt")
    text.write_text(text.read_text().replace("quick", "brown"))  # the same characters
    status, _, err = lab("train", f"run={run.path}", "trainer.max_steps=4")
    assert status == 2
    assert "its corpus has changed" in err


def test_another_config_is_refused_on_the_command_line(lab, run):
    status, _, err = lab("train", f"run={run.path}", "optimizer.lr=0.5", "seed=2")
    assert status == 2
    assert "optimizer.lr: 0.001 is now 0.5" in err
    assert "seed: 1337 is now 2" in err
    status, _, err = lab("train", f"run={run.path}", "model=head")
    assert (status, "continued with its own model" in err) == (2, True)


def test_read_only_output_is_said_plainly(lab, text, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = lab("train", *FOX, "output_dir=file")
    assert status == 2
    assert "cannot keep a run at file/fox" in err
    assert err.count("\n") == 1


def test_a_loss_that_is_lost_between_two_steps_is_told_by_the_evaluation(lab, text, tmp_path):
    words = ["corpus=file", f"corpus.path={text}", "model=head", "data.block_size=8"]
    words += ["eval.every=1", "eval.iters=2", "optimizer=sgd", "optimizer.lr=1e20"]
    status, _, err = lab("train", *words)
    assert status == 2
    assert "error: val/loss became nan at step 1" in err
    assert "try a smaller optimizer.lr" in err
    assert err.count("\n") == 1
