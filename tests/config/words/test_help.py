"""`--help`: what can be chosen, and what each key means."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import lmlab
from lmlab.config.stored import conf_dir
from lmlab.config.words.help import HOW_MADE, read_comments

FILES = sorted(
    path
    for path in conf_dir().rglob("*.yaml")
    if not {"experiment", "sweep", "hydra"} & {*path.relative_to(conf_dir()).parts}
)


@pytest.fixture
def shown(lab, monkeypatch):
    """What a command prints on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")

    def show(*words: str, command: str = "train") -> str:
        status, out, err = lab(command, *words)
        assert (status, err) == (0, "")
        return out

    return show


def test_the_first_page_has_every_choice_and_every_key_with_its_meaning(shown):
    out = shown("--help", "model.n_embd=64")
    assert "  optimizer         adagrad, adam, adamw" in out
    assert "lecture/… (10)" in out
    assert "  model.n_embd=64" in out
    assert "  data.block_size=64                tokens that a window predicts" in out
    assert "_target_" not in out
    lines = [line for line in out.splitlines() if not line.startswith("usage: ")]  # it has a path
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("command", ["evaluate", "generate", "export"])
def test_every_command_explains_its_keys(shown, command):
    out = shown("--help", command=command)
    assert "  run=???                           a run directory, finished or not" in out
    assert ("Choices" in out) == (command == "evaluate")


def test_a_group_has_its_options_and_how_it_is_made(shown):
    out = shown("--help", "model", "model=head")
    assert "model=… (now: head)" in out
    assert "  bigram                    Rung 1: a table of next-token logits" in out
    assert "  model.layer._target_='lmlab.models.attention.Head'" in out


def test_a_key_is_explained_alone_and_a_node_with_all_it_holds(shown):
    assert shown("--help", "model.n_layer", "model=gpt").splitlines() == [
        "  model.n_layer=4                   blocks, one after the other"
    ]
    assert "callbacks.pictures.every=2" in shown("--help", "callbacks.pictures")


def test_several_words_are_explained_one_after_the_other(shown):
    out = shown("--help", "seed", "schedule")
    assert out.index("of everything that is drawn") < out.index("cosine")


def test_a_word_that_is_nothing_is_refused_with_the_nearest(lab):
    status, out, err = lab("train", "--help", "modle")
    assert (status, out) == (2, "")
    assert err == "error: --help modle: no such group and no such key; did you mean model?\n"


def test_what_an_option_is_built_on_explains_its_keys_too(shown):
    out = shown("--help", "model=ensemble", "callbacks=ema")
    assert "  model.members.network.tied=false  the read-out is the token embedding" in out
    assert "  callbacks.histograms.every=0      evaluations from one" in out


def test_options_of_ones_own_are_there_with_their_meanings(shown, tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    own = "# A model of mine.\n_target_: mine.Own\nsize: 3 # how large\n"
    (tmp_path / "mine" / "model" / "own.yaml").write_text(own)
    flag = ["--config-dir", str(tmp_path / "mine")]
    assert "A model of mine" in shown("--help", "model", *flag)
    assert "model.size=3                      how large" in shown("--help", "model=own", *flag)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(conf_dir()).as_posix())
def test_every_option_and_every_key_of_conf_says_what_it_is(path):
    """What another file of the group, on which one is built, says need not be said again."""
    comments, explained = read_comments(path), set(read_comments(path).keys)
    content = yaml.safe_load(path.read_text("utf-8"))
    assert comments.about

    def check(node, prefix):
        for key, value in node.items():
            whole = f"{prefix}{key}"
            if key in (*HOW_MADE, "defaults") or key.startswith("override "):
                continue
            assert whole in explained or any(
                whole in read_comments(other).keys for other in path.parent.glob("*.yaml")
            ), whole
            if isinstance(value, dict):
                check(value, f"{whole}.")

    check(content or {}, "")


def test_the_version_is_the_lab_s(shown):
    out = shown("--version")
    assert out.startswith(f"lmlab {lmlab.__version__} (torch {version('torch')}, lightning ")


def test_help_of_a_value_that_is_no_word_of_hydras(shown):
    assert "usage: " in shown("--help", "run=a,{b")


def test_a_reader_that_has_enough_is_no_error():
    code = "from lmlab.cli import train; train()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_a_comment_belongs_to_what_it_stands_beside_or_right_over(tmp_path):
    path = Path(tmp_path / "some.yaml")
    path.write_text(
        "# @package _global_\n# The file's own,\n# in two lines.\na: 1 # of a\n\n"
        "# A section.\nb: [1, 2] # of b\nc:\n  # over d\n  d: x # of d\n  e: '#' \n"
    )
    comments = read_comments(path)
    assert comments.about == "The file's own, in two lines."
    assert comments.keys == {"a": "of a", "b": "of b", "c.d": "of d. over d"}
    assert comments.sections == {"b": "A section."}
