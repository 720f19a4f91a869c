"""Byte pair encoding of a file: tiktoken's and Hugging Face's own batches against ours.

All read the same text from disk and write ids; what is compared is processor time, so that the
number of cores plays no part. One contestant is one process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rounds import Part, Ratio, Seconds, Table, median, ratio
from lmlab.data.corpus import tinyshakespeare
from lmlab.data.tokenising.encoding import n_cores

MEGABYTES = 30
OURS, TIKTOKEN, HUGGING_FACE = "lmlab", "tiktoken, batches", "Hugging Face tokenizers, batches"
BATCH = 1 << 20  # characters of a batch
PIECES = (512, 8192)  # characters of what is encoded at a time in it: whichever is faster counts
VOCABULARY = 4096


def add_to(part: Part, rounds: int, quick: bool) -> None:
    """`quick` takes a third of the text: of less, keeping the tokenizer is most of it."""
    megabytes = MEGABYTES // 3 if quick else MEGABYTES
    contestants = {
        "gpt2": {OURS: ["gpt2", "ours", "0"]}
        | {f"{TIKTOKEN} of {n}": ["gpt2", "theirs", str(n)] for n in PIECES},
        "bpe": {OURS: ["bpe", "ours", "0"]}
        | {f"{HUGGING_FACE} of {n}": ["bpe", "theirs", str(n)] for n in PIECES},
    }
    rows = []
    with tempfile.TemporaryDirectory() as name:
        text = Path(name) / "text.txt"
        piece = tinyshakespeare().files[0].read_bytes()
        text.write_bytes((piece * (megabytes + 1))[: megabytes * 1_000_000])  # ASCII
        for kind, each in contestants.items():
            seconds: Seconds = {who: [] for who in each}
            for i in range(min(rounds, 3)):
                for who, words in each.items():
                    seconds[who].append(_in_a_process(words, text, Path(name) / f"{i}-{who}"))
            best = min(list(each)[1:], key=lambda who: median(seconds[who]))
            part.ratios.append(
                Ratio(f"{kind}: lmlab / {best}, processor time", ratio(seconds, OURS, best), 1.0)
            )
            for who, took in seconds.items():
                rows.append([kind, who, f"{median(took):.2f}", f"{megabytes / median(took):.1f}"])
            part.seconds[f"{kind}, {megabytes} MB"] = seconds
    title = f"byte pair encoding of {megabytes} MB, file to file"
    part.tables.append(Table(title, ["", "", "CPU seconds", "MB/s per core"], rows))


def _in_a_process(words: list[str], text: Path, out: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.pairs", *words, str(text), str(out)]
    scripts = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=scripts, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def ours(kind: str, text: Path, out: Path) -> float:
    """CPU seconds of a corpus that was never seen, its tokenizer being there."""
    from lmlab.data.corpus import from_files
    from lmlab.data.tokens import tokenize

    tokenizer = _tokenizer(kind)
    begin = time.process_time()
    tokenize(from_files(str(text)), type(tokenizer), cache=out, fitted=tokenizer)
    return time.process_time() - begin


def theirs(kind: str, text: Path, out: Path, size: int) -> float:
    """The same by the library's own batches."""
    import numpy as np

    encoding = _tokenizer(kind)._encoding
    begin = time.process_time()
    with out.open("wb") as file:
        for batch in _batches(text, size):
            if kind == "gpt2":
                ids = encoding.encode_ordinary_batch(batch, num_threads=n_cores())
            else:
                ids = [encoded.ids for encoded in encoding.encode_batch_fast(batch)]
            for some in ids:
                np.array(some, dtype=np.uint16).tofile(file)
    return time.process_time() - begin


def _batches(path: Path, size: int) -> Iterator[list[str]]:
    """The text in batches of pieces, cut at blanks."""
    text = path.read_text("utf-8")
    for start in range(0, len(text), BATCH):
        pieces, rest = [], text[start : start + BATCH]
        while rest:
            at = rest.rfind(" ", 1, size) if len(rest) > size else len(rest)
            at = at if at > 0 else size
            pieces.append(rest[:at])
            rest = rest[at:]
        yield pieces


def _tokenizer(kind: str) -> Any:
    from lmlab.data.bpe import BPETokenizer
    from lmlab.data.tokenizer import GPT2Tokenizer

    if kind == "gpt2":
        return GPT2Tokenizer.fit([])
    return BPETokenizer.fit([tinyshakespeare().files[0].read_text("utf-8")], VOCABULARY)


def main() -> None:
    kind, who, size, text, out = sys.argv[1:]
    paths = Path(text), Path(out)
    took = ours(kind, *paths) if who == "ours" else theirs(kind, *paths, int(size))
    print(json.dumps(took))


if __name__ == "__main__":
    main()
