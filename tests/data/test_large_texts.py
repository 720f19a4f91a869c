"""Texts larger than what a process may hold of them: memory is bounded, whatever the tokenizer."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

MOST = 400  # MB resident, of 1,000 MB of text; the interpreter and its libraries included

TOKENISE = """
import sys
from pathlib import Path
from lmlab.config.build import named
from lmlab.data.corpus import from_files
from lmlab.data.tokens import tokenize

text, cache, target, arguments = sys.argv[1:]
import json
tokenize(from_files(text), named(target), cache=Path(cache), arguments=json.loads(arguments))
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) / 1e3)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A gigabyte of words, in documents of no two alike and no order."""
    source = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyzäöüß"
    words = ["".join(source.choices(letters, k=source.randint(2, 12))) for _ in range(200_000)]
    path = tmp_path_factory.mktemp("large") / "text.txt"
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < 1_000_000_000:
            file.write(" ".join(source.choices(words, k=100_000)) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not say")
@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("lmlab.data.tokenizer.ByteTokenizer", {}),
        ("lmlab.data.tokenizer.CharTokenizer", {}),
        ("lmlab.data.tokenizer.GPT2Tokenizer", {}),
        ("lmlab.data.bpe.BPETokenizer", {"vocab_size": 1024}),
    ],
)
def test_a_gigabyte_takes_bounded_memory(large, tmp_path, target, arguments):
    words = [str(large), str(tmp_path), target, json.dumps(arguments)]
    done = subprocess.run(
        [sys.executable, "-c", TOKENISE, *words], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < MOST
