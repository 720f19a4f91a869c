"""Run directories that somebody damaged, mixed up or booby-trapped."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small import FOX, cut

import lmlab
from lmlab.data.tokenizer import CharTokenizer
from lmlab.errors import LabError
from lmlab.runs.checkpoint import newest_whole, read_checkpoint
from lmlab.runs.directory import RunDirectory


class Bomb:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.fixture
def run(lab, trained, tmp_path) -> RunDirectory:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (path,) = Path("outputs/fox").iterdir()
    return RunDirectory(path)


def change(run: RunDirectory, edit: Callable[[dict], None]) -> None:
    """Edit what the run's newest checkpoint holds."""
    path = run.checkpoints()[0]
    checkpoint = torch.load(path, weights_only=True)
    edit(checkpoint)
    torch.save(checkpoint, path)


def with_pickle_bomb(run: RunDirectory) -> None:
    change(run, lambda checkpoint: checkpoint.update(extra=Bomb()))


def with_bare_pickle_bomb(run: RunDirectory) -> None:
    import pickle

    run.checkpoints()[0].write_bytes(pickle.dumps(Bomb()))


def with_code_as_model(run: RunDirectory) -> None:
    def edit(checkpoint: dict) -> None:
        checkpoint["config"]["model"] = {"_target_": "os.mkdir", "path": "exploded"}

    change(run, edit)


def with_code_inside_a_model(run: RunDirectory) -> None:
    def edit(checkpoint: dict) -> None:
        hidden = {"_target_": "os.mkdir", "path": "exploded"}
        checkpoint["config"]["model"] = {"_target_": "torch.nn.Identity", "x": hidden}

    change(run, edit)


def with_unknown_key(run: RunDirectory) -> None:
    change(run, lambda checkpoint: checkpoint["config"].update(sede=3))


def with_another_tokenizer(run: RunDirectory) -> None:
    other = CharTokenizer.fit(["of another run"]).to_json()
    change(run, lambda checkpoint: checkpoint.update(tokenizer=other))


def with_damaged_tokenizer(run: RunDirectory) -> None:
    change(run, lambda checkpoint: checkpoint.update(tokenizer={"kind": "char", "vocabulary": 3}))


def with_code_as_tokenizer(run: RunDirectory) -> None:
    state = {"kind": "mine", "class": "os.mkdir", "path": "exploded"}
    change(run, lambda checkpoint: checkpoint.update(tokenizer=state))


def with_a_tokenizer_of_nowhere(run: RunDirectory) -> None:
    state = {"kind": "mine", "class": "nosuch.package.Tokens"}
    change(run, lambda checkpoint: checkpoint.update(tokenizer=state))


def with_nothing_of_ours(run: RunDirectory) -> None:
    torch.save({"weights": torch.zeros(3)}, run.checkpoints()[0])


def cut_off(run: RunDirectory) -> None:
    path = run.checkpoints()[0]
    path.write_bytes(path.read_bytes()[:-500])


def emptied(run: RunDirectory) -> None:
    run.checkpoints()[0].write_bytes(b"")


def with_config_within_itself(run: RunDirectory) -> None:
    def edit(checkpoint: dict) -> None:
        checkpoint["config"]["corpus"]["path"] = checkpoint["config"]

    change(run, edit)


def with_numbers_for_names(run: RunDirectory) -> None:
    change(run, lambda checkpoint: checkpoint.update(state_dict=[1], config=3, global_step="x"))


def a_pipe(run: RunDirectory) -> None:
    path = run.checkpoints()[0]
    path.unlink()
    os.mkfifo(path)


def a_folder(run: RunDirectory) -> None:
    path = run.checkpoints()[0]
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("command", ["evaluate", pytest.param("generate", marks=pytest.mark.slow)])
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
        (with_a_tokenizer_of_nowhere, "class nosuch.package.Tokens: not a lmlab tokenizer"),
        (with_nothing_of_ours, "was not written by lmlab"),
        (with_config_within_itself, "its config: it is nested more than 64 deep"),
        (with_numbers_for_names, "was not written by lmlab"),
        (cut_off, "is damaged or cut off"),
        (emptied, "is damaged or cut off"),
        (a_pipe, "is no regular file"),
        (a_folder, "is no regular file"),
    ],
)
def test_bad_checkpoint_is_refused_in_one_line(lab, run, command, damage, expected):
    run.checkpoints()[1].unlink()  # there is no other
    damage(run)
    status, out, err = lab(command, f"run={run.path}")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert not Path("exploded").exists()


LAUGHS = b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 30)
)


def record(**fields: object) -> Callable[[Path], object]:
    """Put fields into a run.json; those that are ... are taken out."""

    def edit(path: Path) -> None:
        changed = json.loads(path.read_bytes()) | fields
        path.write_text(json.dumps({k: v for k, v in changed.items() if v is not ...}))

    return edit


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


# A file of a run directory, what becomes of it (its content, or a function of its path), and what
# is said when training is to go on.
DAMAGED_RUNS = [
    ("run.json", b"not json", "run.json cannot be read"),
    ("run.json", b"[1, 2]", "is not a run's record"),
    ("run.json", b"[" * 100_000, "run.json cannot be read"),
    ("run.json", b'{"status": "\\ud800"}', "run.json cannot be read"),
    ("run.json", b"{}" + b" " * (1 << 24), "and at most 16,777,216 are expected"),
    ("run.json", pipe, "run.json cannot be read: it is no regular file"),
    ("run.json", folder, "run.json cannot be read: it is no regular file"),
    ("run.json", record(status=3), "its status is 3, not a word"),
    ("run.json", record(status=None), "its status is None, not a word"),
    ("run.json", record(step="ten"), "its step is 'ten', not a number of steps"),
    ("run.json", record(step=10**400), "not a number of steps"),
    ("run.json", record(step=...), "it says nothing about step"),
    ("run.json", record(started=...), "it says nothing about started"),
    ("run.json", record(started="soon"), "its started is 'soon', not an ISO time"),
    ("run.json", record(seconds={}), "its seconds is {}, not a number of seconds"),
    ("run.json", record(metrics=[1]), "its metrics is [1], not numbers by name"),
    ("run.json", record(best={"val/loss": "low"}), "not numbers by name"),
    ("run.json", record(corpus_sha256=[]), "its corpus_sha256 is [], not a sha256"),
    ("run.json", record(status="done", metrics={}), "it says done, and has no val/loss_full"),
    ("run.json", record(computed_before=3), "its computed_before is 3, not a list of machines"),
    ("run.json", record(computed_before=[3]), "not a list of machines"),
    ("run.json", record(best=3), "its best is 3, not numbers by name"),
    ("run.json", record(best={"val/loss": 1.0, "step": 1.5}), "not numbers by name"),
    ("run.json", record(choices={"model": "gpt hydra.run.dir=x"}), "not options by group"),
    ("run.json", record(code=["x"]), "its code is ['x'], not hashes by module"),
    ("run.json", record(zz=[[[[]]]] * 2**19), "or without end"),
    ("config.yaml", b"model: {_target_: [1]}", "holds what is no name of a class"),
    ("config.yaml", b"1: 2", "it holds a key that is no text"),
    ("config.yaml", b"]:[", "config.yaml cannot be read"),
    ("config.yaml", b"- 1", "is not a run's config"),
    ("config.yaml", b"!!python/object/apply:os.mkdir [exploded]", "cannot be read"),
    ("config.yaml", b"seed: !!float x", "it holds the tag tag:yaml.org,2002:float"),
    ("config.yaml", b"seed: 1", "is missing"),
    ("config.yaml", b"seed: 2001-99-99", "config.yaml cannot be read"),
    ("config.yaml", b"seed: 2001-01-01", "config.yaml cannot be read"),
    ("config.yaml", b"? [1]\n: 2", "config.yaml cannot be read"),
    ("config.yaml", b"\xff\xfe\0", "config.yaml cannot be read"),
    ("config.yaml", b"a: " + b"[" * 50_000, "it is nested more than 64 deep"),
    ("config.yaml", b"a:\n" + b"".join(b" " * n + b"- \n" for n in range(1, 900)), "64 deep"),
    ("config.yaml", LAUGHS, "it holds an anchor or an alias"),
    ("config.yaml", b"&a [*a]", "it holds an anchor or an alias"),
    ("config.yaml", b"a: &a {b: *a}", "it holds an anchor or an alias"),
    ("config.yaml", b"a: 1\n" * 300_000, "and at most 1,048,576 are expected"),
    ("config.yaml", pipe, "it holds no config.yaml"),
    (".lock", folder, ".lock is a folder, where a file is to be; move it away"),
    ("metrics.csv", b"\xff\0 no table", "metrics.csv is damaged"),
    ("metrics.csv", b"", "metrics.csv is damaged"),
    ("metrics.csv", b"step,val/loss\nten,1.0\n", "metrics.csv is damaged"),
    ("metrics.csv", b"step,val/loss\n1,1.0,2.0\n", "the row of step 1 is cut off or too long"),
    ("metrics.csv", b"step,val/loss,val/bpc\n1,1.0\n", "the row of step 1 is cut off or too long"),
    ("metrics.csv", b'step,a\n1,"' + b"x" * 200_000, "metrics.csv is damaged"),
    ("metrics.csv", pipe, "metrics.csv is a pipe, where a file is to be; move it away"),
]


@pytest.fixture
def half_done(run) -> RunDirectory:
    """A run that ended after its first step, which has a checkpoint; so has the second."""
    run.update(status="interrupted", step=1)
    return run


@pytest.mark.parametrize(("name", "damage", "expected"), DAMAGED_RUNS)
def test_damaged_run_is_refused_when_training_goes_on(lab, half_done, name, damage, expected):
    path = half_done.path / name
    path.write_bytes(damage) if isinstance(damage, bytes) else damage(path)
    status, _, err = lab("train", f"run={half_done.path}")
    assert status == 2
    assert expected in err
    assert err.count("\n") == 1
    assert len(err) < 500
    assert not Path("exploded").exists()


def with_a_flipped_directory_flag(run: RunDirectory) -> None:
    """Of all entries of the zip: they are folders then, and read as nothing."""
    path = run.checkpoints()[0]
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\1\2")
    while at >= 0:
        content[at + 38] ^= 0x10  # of the external attributes
        at = content.find(b"PK\1\2", at + 4)
    path.write_bytes(content)


def with_another_compression_in_an_old_checkpoint(run: RunDirectory) -> None:
    """One that ends without a digest, as they did before there was one."""
    change(run, lambda checkpoint: None)
    path = run.checkpoints()[0]
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\1\2") + 10] ^= 8  # stored becomes deflated
    path.write_bytes(content)


def of_another_model(run: RunDirectory) -> None:
    def edit(checkpoint: dict) -> None:
        names = list(checkpoint["state_dict"])
        checkpoint["state_dict"][names[0]] = torch.zeros(3, 3)

    change(run, edit)


def of_another_run(run: RunDirectory) -> None:
    def edit(checkpoint: dict) -> None:
        checkpoint["config"]["seed"] = 7

    change(run, edit)


@pytest.mark.parametrize("command", ["train", pytest.param("generate", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "damage",
    [
        with_pickle_bomb,
        with_unknown_key,
        with_damaged_tokenizer,
        with_config_within_itself,
        with_a_flipped_directory_flag,
        with_another_compression_in_an_old_checkpoint,
        of_another_model,
        of_another_run,
        cut_off,
        emptied,
        a_pipe,
    ],
)
def test_the_checkpoint_before_a_bad_one_is_used(lab, half_done, command, damage):
    bad, good = half_done.checkpoints()
    damage(half_done)
    more = ["prompt=fox", "max_new_tokens=3"] if command == "generate" else []
    status, out, err = lab(command, f"run={half_done.path}", *more)
    assert (status, err) == (0, "")
    assert str(bad) in out
    assert f"going by the one before, {good.name}" in out
    if command == "train":
        assert "going on from step 1" in out
        assert half_done.record["status"] == "done"
    assert not Path("exploded").exists()


def test_one_flipped_bit_anywhere_in_a_checkpoint_is_noticed(run):
    path = run.checkpoints()[0]
    content = bytearray(path.read_bytes())
    assert read_checkpoint(path)["global_step"] == 2
    assert torch.load(path, weights_only=True)["global_step"] == 2  # it is one of torch's
    directory = range(len(content) - 4000, len(content))
    for at in [*range(0, len(content), 251), *directory[::7], len(content) - 1]:
        content[at] ^= 1 << at % 8
        path.write_bytes(content)
        with pytest.raises(LabError, match="is damaged or cut off"):
            read_checkpoint(path)
        content[at] ^= 1 << at % 8
    path.write_bytes(content)
    read_checkpoint(path)


def test_checkpoint_of_before_there_was_a_digest_is_read(run):
    before = newest_whole(run)[1]["state_dict"]["model.table.weight"]
    change(run, lambda checkpoint: None)
    assert torch.equal(newest_whole(run)[1]["state_dict"]["model.table.weight"], before)


def test_a_sample_that_is_no_text_is_shown_as_far_as_it_can_be(lab, run):
    (run.path / "sample.txt").write_bytes(b"fox \xff jumps")
    status, out, err = lab("train", f"run={run.path}")
    assert (status, err) == (0, "")
    assert "fox \ufffd jumps" in out


def test_a_run_on_a_read_only_disk(lab, half_done, session_cache):
    """It can be used, and is not trained."""
    mount = f"mount --bind {half_done.path} {half_done.path}"
    mount = f"{mount} && mount -o remount,bind,ro {half_done.path}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("only root may mount")
    code = f"import lmlab; run = lmlab.open('{half_done.path}'); print(run.generate())\n"
    code += "lmlab.train(run=run.path)"
    words = ["unshare", "-m", "sh", "-c", f'{mount} && {sys.executable} -c "{code}"']
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout
    refused = done.stderr.splitlines()[-1]
    assert refused.startswith("lmlab.errors.LabError: ")
    assert "Read-only file system" in refused


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
    cut(run, 1)
    words = [f"run={run.path}"]
    Path("other.txt").write_text("another text altogether\n" * 40)
    status, _, err = lab("train", *words, "corpus.path=other.txt")
    assert (status, err.count("\n")) == (2, 1)
    assert "its corpus has changed" in err
    assert (lab("train", *words, "corpus.path=moved.txt")[0], run.record["step"]) == (0, 2)


def test_of_a_finished_run_a_corpus_that_moved_is_taken_and_kept(lab, run):
    before = lmlab.open(run.path).evaluate()
    Path("other.txt").write_text("another text altogether\n" * 40)
    Path("text.txt").rename("moved.txt")
    status, _, err = lab("evaluate", f"run={run.path}")
    assert (status, err.count("\n")) == (2, 1)
    assert "corpus.path=text.txt: no such file" in err
    assert "moved is given by corpus.path=" in err
    for command in ("evaluate", "train"):
        for words, said in (
            ("corpus.path=other.txt", "its corpus has changed"),
            ("corpus.path=nowhere.txt", "corpus.path=nowhere.txt: no such file"),
            ("corpus.pth=moved.txt", "unknown key corpus.pth"),
        ):
            status, _, err = lab(command, f"run={run.path}", words)
            assert (status, err.count("\n"), said in err) == (2, 1, True)
    assert run.config["corpus"]["path"] == "text.txt"

    best = ["checkpoint=best", "corpus.path='moved.txt'"]
    assert lab("evaluate", f"run={run.path}", *best)[0] == 0
    assert run.config["corpus"]["path"] == "moved.txt"
    assert lmlab.open(run.path).evaluate() == before
    assert lab("train", f"from={run.path}", "trainer.max_steps=3", "name=child")[0] == 0

    Path("moved.txt").rename("again.txt")
    assert lab("train", f"run={run.path}", "corpus.path=again.txt")[0] == 0
    assert run.config["corpus"]["path"] == "again.txt"
    Path("again.txt").rename("text.txt")
    assert lmlab.open(run.path).evaluate(corpus={"path": Path("text.txt")}) == before
    assert run.config["corpus"]["path"] == "text.txt"
    assert run.status == "done"


def test_a_record_without_bits_per_character_is_shown_without(lab, run):
    run.update(metrics={"val/loss_full": 3.0})
    status, out, err = lab("train", f"run={run.path}")
    assert (status, err) == (0, "")
    assert "val/loss_full 3.0000 nats per token (each" in out


def test_evaluate_notices_that_the_corpus_changed(lab, run):
    Path("text.txt").write_text("0123456789" * 100)
    status, _, err = lab("evaluate", f"run={run.path}")
    assert status == 2
    assert "its corpus has changed" in err


def test_training_does_not_go_on_with_another_text(lab, run):
    text = Path("text.txt")
    text.write_text(text.read_text().replace("quick", "brown"))  # the same characters
    cut(run, 1)
    status, _, err = lab("train", f"run={run.path}")
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
