"""A mixed sweep, trained small on real code."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from boards import Board, Breaks, Own, Sweep, begin
from small import cut, train

from lmlab.runs.directory import RunDirectory

HOSTILE = (
    "<script>alert('&amp;')</script>\n\n```\n# *_|<b>x</b> [a](javascript:b) $\\frac12$ {{c}}\n"
)


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory, tinyshakespeare_path: Path) -> Sweep:
    folder = tmp_path_factory.mktemp("outputs")
    plays = (f"corpus.path={tinyshakespeare_path}", "data.val_fraction=0.01")
    gpt = ("model=gpt", "model.n_layer=2", "model.n_head=2", "model.n_embd=16", "model.dropout=0.1")
    hostile = folder.parent / "hostile.txt"
    hostile.write_text(HOSTILE * 30)
    jobs = {
        "sweeps/mixed/bigram": (*plays, "model=bigram"),
        "sweeps/mixed/bag_of_words": (*plays, "model=bag_of_words"),
        "sweeps/mixed/head": (*plays, "model=head"),
        "sweeps/mixed/gpt": (*plays, *gpt, "callbacks.histograms.every=1"),
        "sweeps/mixed/ngram": (*plays, "model=ngram", "model.order=2", "trainer.max_steps=0"),
        "own": (*plays, "model=bigram", f"model._target_={Own.__module__}.Own"),
        "hostile": ("model=bigram", "corpus=file", f"corpus.path={hostile}", "tokenizer=byte"),
        "resumed": (*plays, *gpt, "checkpoint.every=1", "checkpoint.keep=30"),
    }
    runs = {name: begin(folder / name, *words) for name, words in jobs.items()}
    cut(runs["resumed"], 18)
    train({**runs["resumed"].config, "run": str(runs["resumed"].path)})
    with pytest.raises(RuntimeError, match="a disk is gone"):
        begin(
            folder / "failed",
            *plays,
            *gpt,
            f"+callbacks.breaks._target_={Breaks.__module__}.Breaks",
        )
    return Sweep(folder, {**runs, "failed": RunDirectory(folder / "failed")})


@pytest.fixture(scope="session")
def link(sweep: Sweep) -> Iterator[str]:
    """What `make board` prints, with the sweep read."""
    with Board(sweep) as found:
        yield found
