"""Part 5, from a text to ids on disk: nanoGPT's prepare.py against ours, time and peak memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import pairs
from benchmarks.rounds import Part, Ratio, Seconds, Table, median, ratio
from lmlab.data.corpus import tinyshakespeare
from lmlab.errors import LabError

NANOGPT, OURS = "nanoGPT's prepare.py", "lmlab"
MEGABYTES = 200


def nanogpt_prepare(text: Path, out: Path) -> None:
    """As data/shakespeare_char/prepare.py does it: a Python list of ids."""
    import numpy as np

    data = text.read_text(encoding="utf-8")
    chars = sorted(set(data))
    stoi = {ch: i for i, ch in enumerate(chars)}
    ids = [stoi[c] for c in data]
    np.array(ids, dtype=np.uint16).tofile(out)


def lmlab_prepare(text: Path, out: Path) -> None:
    """What happens before training when a text was never seen."""
    from lmlab.data.corpus import from_files
    from lmlab.data.tokenizer import CharTokenizer
    from lmlab.data.tokens import tokenize

    tokenize(from_files(str(text)), CharTokenizer, cache=out)


def run(rounds: int, quick: bool) -> Part:
    """`quick` takes a tenth of the text."""
    part = Part("tokenising")
    megabytes = MEGABYTES // 10 if quick else MEGABYTES
    seconds: Seconds = {NANOGPT: [], OURS: []}
    peaks: dict[str, list[float]] = {NANOGPT: [], OURS: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        _write_text(text, megabytes)
        for i in range(min(rounds, 3)):
            for who, function in ((NANOGPT, nanogpt_prepare), (OURS, lmlab_prepare)):
                told = _in_a_process(function.__name__, text, folder / f"{i}-{function.__name__}")
                seconds[who].append(told["seconds"])
                peaks[who].append(told["peak_mb"])
        _check_same(folder)
    part.seconds[f"{megabytes} MB"] = seconds
    speed = {who: megabytes / median(took) for who, took in seconds.items()}
    part.ratios += [
        Ratio(f"char tokenising, MB/s of {megabytes} MB", speed[OURS], at_least=100),
        Ratio(f"char tokenising: {NANOGPT} / {OURS}, time", ratio(seconds, NANOGPT, OURS)),
        Ratio(
            f"char tokenising: {NANOGPT} / {OURS}, peak memory",
            median(peaks[NANOGPT]) / median(peaks[OURS]),
        ),
    ]
    part.tables.append(
        Table(
            f"a text of {megabytes} MB to ids on disk",
            ["", "seconds", "MB/s", "peak memory, MB"],
            [
                [who, f"{median(took):.2f}", f"{speed[who]:,.0f}", f"{median(peaks[who]):,.0f}"]
                for who, took in seconds.items()
            ],
        )
    )
    pairs.add_to(part, rounds, quick)
    return part


def _write_text(path: Path, megabytes: int) -> None:
    """tinyshakespeare over and over."""
    piece = tinyshakespeare().files[0].read_bytes()
    with path.open("wb") as file:
        for _ in range(-(-megabytes * 1_000_000 // len(piece))):
            file.write(piece)
        file.truncate(megabytes * 1_000_000)  # it is ASCII: no character is cut


def _in_a_process(function: str, text: Path, out: Path) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.corpus", function, *map(str, (text, out))]
    scripts = Path(__file__).parents[1]
    done = subprocess.run(words, cwd=scripts, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _check_same(folder: Path) -> None:
    import numpy as np

    theirs = np.memmap(folder / f"0-{nanogpt_prepare.__name__}", np.uint16)
    (path,) = (folder / f"0-{lmlab_prepare.__name__}").rglob("*.bin")
    if not np.array_equal(theirs, np.memmap(path, np.uint8)):
        raise LabError("the two tokenisers disagree")


def _peak_mb() -> float:
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:  # a Mac, whose unit is a byte
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    # Unlike ru_maxrss it does not begin with what the parent process had.
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


def main() -> None:
    """One contestant in a process of its own, whose peak memory is then its own."""
    name, text, out = sys.argv[1:]
    prepare = {f.__name__: f for f in (nanogpt_prepare, lmlab_prepare)}[name]
    begin = time.perf_counter()
    prepare(Path(text), Path(out))
    took = time.perf_counter() - begin
    print(json.dumps({"seconds": took, "peak_mb": _peak_mb()}))


if __name__ == "__main__":
    main()
