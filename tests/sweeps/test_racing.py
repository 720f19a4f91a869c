"""Races of seeds, trained: which runs are spent, and what is measured at the end."""

import json
import math
import shutil
from pathlib import Path

import pytest
from sweeps.conftest import records

from lmlab.sweeps.report.race_sections import race_sections
from lmlab.sweeps.table.raced import RACE, Raced
from lmlab.sweeps.table.settings import load

RACE_WORDS = ["model=bigram", "sweep.name=a", "optimizer.lr=1e-4,1e-1", "seed=range(1,6)"]
RACE_WORDS += ["sweep.race.first=3", "logger.tensorboard=false", "eval.every=12"]


@pytest.fixture
def held(sweep_here, tmp_path):
    """held("key=values", …): a race in this process, its folder and what was printed."""

    def run(*words: str, status: int = 0) -> tuple[Path, str]:
        said = sweep_here(*RACE_WORDS, *words, status=status)
        return tmp_path / "outputs/sweeps/a", said

    return run


def test_what_is_worse_gets_no_further_seed_and_the_best_is_measured_anew(held):
    folder, said = held()
    seeds = {rate: set() for rate in (1e-4, 1e-1)}
    for record in records(folder).values():
        seeds[record["swept"]["optimizer.lr"]].add(record["swept"]["seed"])
    assert seeds == {1e-4: {1, 2, 3}, 1e-1: {1, 2, 3, 6, 7, 8}}
    raced = Raced.read(folder)
    assert raced is not None
    assert raced.has_winner
    assert raced.fresh == [6, 7, 8]
    runs = load([folder]).runs.set_index(["optimizer.lr", "seed"])["val/loss_full"]
    assert raced.losses == [runs[1e-1, seed] for seed in raced.fresh]
    best, other = raced.rows
    assert best["loss"] == pytest.approx(runs[1e-1][[1, 2, 3]].mean(), abs=1e-12)
    apart = runs[1e-4][[1, 2, 3]].mean() - best["loss"]
    assert other["difference"] == pytest.approx(apart, abs=1e-12)
    assert (other["why"], other["n"]) == ("worse", 3)
    assert "on fresh seeds 6, 7, 8" in said
    assert "6 of 10 runs were needed (60%), and 3 on fresh seeds" in said
    assert "the race" in (folder / "leaderboard.md").read_text()

    before = {name: record["started"] for name, record in records(folder).items()}
    decided = (folder / RACE).read_text()
    lost = next(name for name in before if "seed=2" in name)
    shutil.rmtree(folder / lost)  # as if it had been killed before it began
    (folder / RACE).unlink()
    held()
    after = {name: record["started"] for name, record in records(folder).items()}
    assert after.keys() == before.keys()
    assert {n: t for n, t in after.items() if n != lost} == {
        n: t for n, t in before.items() if n != lost
    }
    assert (folder / RACE).read_text() == decided


@pytest.mark.slow
def test_equal_settings_race_to_their_last_seed(held):
    words = ["optimizer.lr=1e-2", "optimizer.eps=1e-8,1.001e-8", "seed=1,2,3,4"]
    folder, said = held(*words)
    assert "the race, which no setting won" in said
    assert len(records(folder)) == 2 * 4 + 3


@pytest.mark.slow
def test_a_difference_that_does_not_matter_ends_it(held):
    words = ["optimizer.lr=1e-2", "optimizer.eps=1e-8,1.001e-8", "seed=1,2,3,4"]
    folder, _ = held(*words, "sweep.race.least=0.5")
    assert [row.get("why") for row in json.loads((folder / RACE).read_text())["rows"]] == [
        None,
        "as good",
    ]
    assert len(records(folder)) == 2 * 3 + 3


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["sweep.wait=false"], "a race learns from its results"),
        (["pause_at=4"], "pause_at: settings race by their losses at the end"),
        (["seed=1,9223372036854775805"], "no seeds are left above it"),
        (["seed=1"], "settings race by the same seeds, two or more"),
        (["sweep.race.first=1"], "sweep.race.first=1: input should be greater than or equal to 2"),
    ],
)
def test_what_is_refused(held, words, problem):
    folder, said = held(*words, status=2)
    assert problem in said
    assert not folder.exists()


def test_a_sweeper_of_others_does_not_race(held):
    folder, said = held("hydra/sweeper=basic", status=2)
    assert said.count("hydra/sweeper=basic gives each setting all of its seeds") == 1
    assert not records(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [{}]}', "nonsense"])
def test_a_damaged_race_is_none(tmp_path, content):
    (tmp_path / RACE).write_text(content)
    assert Raced.read(tmp_path) is None


LOST = {"setting": "b", "seeds": 3, "loss": 2.1, "why": "worse", "n": 3, "against": "a"}
LOST |= {"difference": 0.1, "low": 0.0, "high": 0.2, "p": 0.01}
WHOLE = {"rows": [{"setting": "a", "seeds": 3, "loss": 2.0}, LOST], "n_seeds": 5, "n_runs": 6}
WHOLE |= {"fresh": [6, 7], "losses": [2.0, 2.1], "has_winner": True, "least": None}
NONSENSE = [None, True, 0, -1, 1.5, math.nan, math.inf, 10**400, 1e308, "a\nb|<b>", "\ud800"]
NONSENSE += [[], [1], [[]], {}, {"a": 1}, [1e308, -1e308], [math.inf, 1.0], ["a"]]


@pytest.mark.parametrize("key", sorted(WHOLE | LOST))
def test_whatever_a_race_holds_it_is_a_table_or_none(tmp_path, key):
    n_tables = 0
    for value in NONSENSE:
        for i in range(3):
            content = json.loads(json.dumps(WHOLE))
            [content, *content["rows"]][i][key] = value
            (tmp_path / RACE).write_text(json.dumps(content))
            for section in race_sections(tmp_path):
                n_tables += 1
                cells = [cell for column in section.columns for cell in column.cells]
                assert len(cells) == 7 * 2
                assert not any("\n" in text for text in [*cells, *section.notes])
    assert n_tables >= len(NONSENSE)  # a key of no meaning is no harm
