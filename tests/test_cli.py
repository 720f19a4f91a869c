"""The commands as a person types them: what bad input gets, and what the good one leaves."""

import subprocess
import sys
from pathlib import Path

import pytest
from small import SMALL


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model.n_layr=3"], ["model.n_layr", "did you mean model.n_layer?"]),
        (["+model.n_layr=3"], ["unknown key model.n_layr=3", "did you mean model.n_layer?"]),
        (["+foo.bar=1"], ["unknown key foo"]),
        (["model=gtp"], ["model=gtp", "did you mean gpt?", "bigram"]),
        (["modle=gpt"], ["modle", "did you mean model?"]),
        (["optimizer=adamW"], ["optimizer=adamW", "did you mean adamw?"]),
        (["experiment=lecture/heads"], ["heads", "did you mean lecture/head?"]),
        (["data.batch_size=0"], ["data.batch_size=0", "greater than or equal to 1"]),
        (["data.batch_size=-4"], ["data.batch_size=-4"]),
        (["data.block_size=eight"], ["data.block_size='eight'", "integer"]),
        (["data.val_fraction=1.5"], ["data.val_fraction=1.5", "less than 1"]),
        (["model.n_embd=130"], ["model.n_embd=130", "not divisible", "n_head=4"]),
        (["model=multi_head", "model.layer.n_head=5"], ["model.n_embd=32", "n_head=5"]),
        (["model=ngram", "model.order=7"], ["model.order=7", "less than or equal to 6"]),
        (["optimizer.lr=-1"], ["optimizer.lr=-1", "greater than 0"]),
        (["trainer.max_steps=-1"], ["trainer.max_steps=-1"]),
        (["trainer.max_steps=1e3"], ["trainer.max_steps=1000.0", "integer"]),
        (["eval.protocol=some"], ["eval.protocol='some'", "'random' or 'full'"]),
        (["eval.stride=65"], ["eval.stride=65", "data.block_size=64"]),
        (["corpus=file"], ["corpus.path is missing"]),
        (["corpus=file", "corpus.path=nowhere.txt"], ["corpus.path=nowhere.txt", "no such file"]),
        (["corpus=file", "corpus.path=."], ["corpus.path=.", "not a file"]),
        (["corpus.path=text.txt"], ["corpus.path=text.txt", "not tinyshakespeare"]),
        (["name=../escape"], ["name='../escape'", "relative path"]),
        (["seed=abc"], ["seed='abc'"]),
        (["trainer.max_steps"], ["trainer.max_steps"]),
        (["optimizer.lr=1,2"], ["optimizer.lr=1,2"]),
        (["run=nowhere"], ["run=nowhere", "no such directory"]),
        (["run=."], ["run=.", "not a run directory"]),
    ],
    ids=lambda value: " ".join(value)[:50] if value and "=" in str(value) else None,
)
def test_train_refuses_in_one_line_and_leaves_nothing(lab, text, tmp_path, words, expected):
    before = sorted(tmp_path.rglob("*"))
    status, _, err = lab("train", *words)
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in expected:
        assert part in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"caf\xe9 au lait" * 50, "not UTF-8: invalid continuation byte at byte 3"),
        (b"a", "at least 9 tokens"),
        ("in UTF-16".encode("utf-16") * 99, "not UTF-8"),
        (b"text\n" * 30 + b"\0" * 30, "holds a NUL at byte 150"),
        (b"abcdefgh" * 10, "val split of at least 9 tokens, and this one has 8"),
    ],
    ids=["empty", "latin-1", "one character", "utf-16", "NUL", "short val"],
)
def test_train_names_what_is_wrong_with_a_text(lab, tmp_path, content, expected):
    (tmp_path / "bad.txt").write_bytes(content)
    status, _, err = lab("train", *SMALL, "corpus=file", "corpus.path=bad.txt")
    assert status == 2
    assert expected in err
    assert err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


@pytest.fixture
def run(lab, text) -> Path:
    status, out, err = lab("train", *SMALL, "corpus=file", "corpus.path=text.txt", "name=fox")
    assert status == 0, err
    assert err == ""
    assert "continue  python scripts/train.py run=" in out
    (path,) = Path("outputs/fox").iterdir()
    return path


def test_evaluate_and_generate_need_only_the_run(lab, run):
    status, out, err = lab("evaluate", f"run={run}", "stride=1")
    assert (status, err) == (0, "")
    assert "val/loss_full" in out
    assert "windows of 8 every 1" in out
    words = [f"run={run}", 'prompt=the "fox"'.replace('"', ""), "max_new_tokens=20", "seed=3"]
    first = lab("generate", *words)
    assert first[0] == 0
    assert first[1].startswith("the fox")
    assert lab("generate", *words) == first
    several = lab("generate", *words, "samples=2")[1]
    assert first[1].strip() in several


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prompt="], "prompt is empty"),
        (["prompt=Füchse, viele!"], "'F' (U+0046), 'v'"),
        (["prompt=fox\x00\x1b[31m"], "'\\x00' (U+0000)"),
        (["prompt=fox", "temperature=-1"], "temperature=-1"),
        (["prompt=fox", "top_k=0"], "top_k=0"),
        (["prompt=fox", "top_p=1.5"], "top_p=1.5"),
        (["prompt=fox", "max_new_tokens=0"], "max_new_tokens=0"),
        (["prompt=fox", "checkpoint=worst"], "checkpoint=worst: no such checkpoint"),
        (["prmpt=fox"], "did you mean prompt?"),
    ],
)
def test_generate_refuses_in_one_line(lab, run, words, expected):
    status, out, err = lab("generate", f"run={run}", *words)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    if "viele" in words[0]:
        expected = "ü"
    assert expected in err


def test_prompt_is_text_whatever_it_holds(lab, text, tmp_path):
    said = "\"quoted\" 'single' a,b=c {x} [y] (z) $HOME ${x} \\ back\\\\slash! #?\\"
    text.write_text(text.read_text() + said)
    lab("train", *SMALL, "corpus=file", "corpus.path=text.txt", "name=odd")
    (run,) = Path("outputs/odd").iterdir()
    status, out, err = lab("generate", f"run={run}", f"prompt={said}", "max_new_tokens=1")
    assert (status, err) == (0, "")
    # The model's block is 8 tokens, and it says so.
    assert said in out


def test_long_prompt_is_cropped_and_said_so(lab, run):
    _, out, _ = lab("generate", f"run={run}", "prompt=the lazy dog", "max_new_tokens=3")
    assert "the prompt is 12 tokens long, and the model sees the last 8" in out


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_run_that_is_none_is_refused(lab, tmp_path, command):
    assert "run=nowhere: no such directory" in lab(command, "run=nowhere")[2]
    assert "is not a run directory" in lab(command, "run=.")[2]
    assert "run is missing: give run=" in lab(command)[2]


def test_multirun_keeps_a_directory_for_each_job(lab, text, tmp_path):
    words = ["-m", *SMALL, "corpus=file", "corpus.path=text.txt", "model=bigram,head", "seed=1,2"]
    status, _, err = lab("train", *words)
    assert (status, err) == (0, "")
    records = sorted(Path("outputs/sweeps").glob("*/*/run.json"))
    assert len(records) == 4
    assert sum("model=head" in str(record) for record in records) == 2


def test_dry_run_says_what_would_happen_and_leaves_nothing(lab, text):
    words = [*SMALL, "corpus=file", "corpus.path=text.txt", "dry_run=true", "optimizer=adamw"]
    status, out, err = lab("train", *words, "data.batch_size=12")
    assert (status, err) == (0, "")
    for part in ("784 parameters", "96 tokens", "792 train and 88 val", "outputs/bigram/<time>"):
        assert part in out
    assert not Path("outputs").exists()


def test_traceback_is_shown_on_demand(tmp_path):
    code = "from lmlab.cli import train; train()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data.batch_size=0"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HYDRA_FULL_ERROR": "1", "PATH": "/usr/bin"},
        timeout=60,
    )
    assert "Traceback" in done.stderr
    assert "LabError: data.batch_size=0" in done.stderr


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--help"], ["model: bag_of_words, bigram", "lecture/head", "  n_embd: 128"]),
        (["-h", "model=bigram", "data.batch_size=7"], ["batch_size: 7", "models.bigram.Bigram"]),
        (["--help", "run=a,{b"], ["usage: "]),
    ],
)
def test_help_shows_every_choice_and_every_key_as_it_would_be(lab, words, shown):
    status, out, err = lab("train", *words)
    assert not status
    assert not err
    assert all(text in out for text in shown)
    assert "_settings" not in out


def test_help_knows_configs_of_ones_own(lab, tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text("_target_: mine.Own\n")
    status, out, err = lab("train", "--help", "--config-dir", str(tmp_path / "mine"), "model=own")
    assert (status, err) == (0, "")
    assert "_target_: mine.Own" in out


def test_help_and_config_errors_do_not_import_torch(tmp_path):
    code = (
        "import sys\nfrom lmlab.cli import train\n"
        "try: train()\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, 'lightning' in sys.modules, file=sys.stderr)"
    )
    for word in ("--help", "data.batch_size=0", "model=none"):
        done = subprocess.run(
            [sys.executable, "-c", code, word],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )
        assert done.stderr.endswith("False False\n")
