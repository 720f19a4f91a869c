"""Whoever reads what is printed, in whatever encoding: what is computed goes on."""

import io
import os
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import TINY

from lmlab.output import Output, whole_output
from lmlab.runs.directory import RunDirectory

FULL = Path("/dev/full")
TRAIN = [sys.executable, "-c", "from lmlab.cli import train; train()"]


@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    encoding=st.sampled_from(["ascii", "cp1252", "latin-1", "cp437", "utf-8"]),
)
def test_a_character_that_an_encoding_lacks_is_spelled(text, encoding):
    raw = io.BytesIO()
    out = Output(io.TextIOWrapper(raw, encoding=encoding, newline=""))
    out.write(text)
    out.flush()
    assert raw.getvalue() == text.encode(encoding, "backslashreplace")


def test_a_reader_that_is_gone_is_no_problem():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, redirect_stdout(stream), whole_output() as out:
        print("a line")
        sys.stdout.flush()
        assert out.is_closed
        print("another")
        sys.stdout.flush()
    assert out.problem is None


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_device_is_told_once():
    with FULL.open("w") as stream, redirect_stdout(stream), whole_output() as out:
        print("a line")
    assert out.problem == "standard output: No space left on device"


@pytest.fixture
def words(tinyshakespeare_path, tmp_path) -> list[str]:
    small = [*TINY, "model=bigram", "corpus=file", f"corpus.path={tinyshakespeare_path}"]
    return [*small, f"output_dir={tmp_path}", "name=a"]


def only_run(folder: Path) -> RunDirectory:
    (directory,) = (folder / "a").iterdir()
    return RunDirectory(directory)


def test_a_training_whose_reader_had_enough_is_done(words, lab, tmp_path):
    reader, writer = os.pipe()

    def read_a_line() -> None:
        with os.fdopen(reader) as lines:
            lines.readline()

    thread = threading.Thread(target=read_a_line)
    thread.start()
    with os.fdopen(writer, "w", encoding="ascii") as stream, redirect_stdout(stream):
        status, _, err = lab("train", *words)
        thread.join()
    assert (status, err) == (0, "")
    assert only_run(tmp_path).status == "done"


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_training_into_a_full_device_is_done_and_says_so(words, tmp_path):
    with FULL.open("w") as full:
        training = subprocess.run([*TRAIN, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    line = "error: standard output: No space left on device\n"
    assert (training.returncode, training.stderr) == (2, line)
    assert only_run(tmp_path).status == "done"


@pytest.mark.skipif(os.name == "nt", reason="a shell's >&-")
def test_without_a_standard_output_help_ends_quietly():
    script = f'"{sys.executable}" -c "from lmlab.cli import train; train()" --help >&-'
    ended = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
