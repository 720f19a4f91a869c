"""Rows of the table of records: what makes one, and what is refused."""

import json
from pathlib import Path

import pytest
from small import ROOT

from lmlab.errors import LabError
from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.records import records_command
from lmlab.sweeps.records.attempt import METRIC, recipe_of, seeds_of
from lmlab.sweeps.records.ledger import (
    BEGIN,
    END,
    Row,
    judged,
    read_rows,
    standing_record,
    table,
    write_rows,
)
from lmlab.sweeps.records.rulebook import BUDGETS
from lmlab.sweeps.records.spending import spent_in

RECIPE = [
    *("model=bigram", "trainer.max_steps=2", "trainer.accelerator=cpu"),
    *("eval.every=2", "eval.at_start=false", "eval.iters=1", "data.block_size=256"),
    "callbacks.sample=null",
]


def row(losses: str, **changed: object) -> Row:
    of_seeds = " ".join("19.5" for _ in losses.split())
    same = {"budget": "10s", "recipe": "model=bigram", "fingerprint": losses.replace(" ", "")}
    about = {"commit": "c", "threads": 1, "processor": "P", "python": "3", "torch": "2"}
    ends = {"lmlab": "0", "date": "2026-01-01", "mean": 0.0, "against": "", "p": None}
    spent = {"cpu_seconds": of_seeds, "wall_seconds": of_seeds}
    fields = {**same, **about, **ends, **spent, "is_record": False, "losses": losses, **changed}
    return Row.model_validate(fields)


def rows_of(*losses: str) -> list[Row]:
    rows: list[Row] = []
    for of_row in losses:
        rows.append(judged(row(of_row), rows))
    return rows


def test_the_page_shows_the_rows_that_are_kept():
    rows = read_rows(ROOT / "docs" / "records.csv")  # each follows from its own numbers
    page = (ROOT / "docs" / "records.md").read_text("utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == table(rows)


def test_a_lower_mean_is_a_record_if_chance_does_not_explain_it(tmp_path):
    first, lower, lucky, worse = rows_of(
        *("1.90 1.91 1.89", "1.80 1.812 1.789", "1.60 1.81 1.78", "1.95 1.96 1.94")
    )
    assert [r.is_record for r in (first, lower, lucky, worse)] == [True, True, False, False]
    assert lucky.mean < lower.mean
    assert lucky.against == worse.against == lower.fingerprint
    assert lower.p == pytest.approx(7.8e-5, rel=0.01)  # t = 113 with two degrees
    standing = standing_record([first, lower, lucky, worse], "10s")
    assert standing is lower
    assert standing_record([first], "3min") is None
    assert "| **1.8003** |" in table([first, lower, lucky, worse])

    write_rows(tmp_path / "kept.csv", [first, lower, lucky, worse])
    assert read_rows(tmp_path / "kept.csv") == [first, lower, lucky, worse]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"mean": 1.7}, "mean does not follow from its losses"),
        ({"is_record": False}, "is_record does not follow from its losses"),
        ({"losses": "1.5 1.5"}, "2 seeds; a row has 3 or more"),
        ({"cpu_seconds": "19 20.1 18"}, "a seed took 20.1 of 20 seconds"),
        ({"budget": "1h"}, "budget 1h: give one of 10s, 3min, 30min"),
        ({"losses": "1.5 one 1.5"}, "row 1: losses='one'"),
    ],
)
def test_a_row_that_does_not_follow_from_its_numbers_is_refused(tmp_path, changed, reason):
    (good,) = rows_of("1.90 1.91 1.89")
    bad = Row.model_construct(**{**dict(good), **changed})
    write_rows(tmp_path / "kept.csv", [bad])
    with pytest.raises(LabError, match=reason):
        read_rows(tmp_path / "kept.csv")


def test_a_recipe_has_one_row(tmp_path):
    (first,) = rows_of("1.90 1.91 1.89")
    again = judged(first.model_copy(update={"losses": (1.5, 1.51, 1.52)}), [first])
    write_rows(tmp_path / "kept.csv", [first, again])
    with pytest.raises(LabError, match="has its row for 10s already"):
        read_rows(tmp_path / "kept.csv")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("model=ngram", "model has a NGram; a record is one network alone"),
        ("model=ensemble", "model has a Ensemble; a record is one network alone"),
        (
            "model=modern model.counts_order=3",
            "model has a CrossFitted; a record is one network alone",
        ),
        ("corpus=shakespeare", "has to be tinyshakespeare"),
        ("tokenizer=byte", "tokenizer has to be char"),
        ("data.val_fraction=0.05", "data.val_fraction has to be 0.1"),
        ("eval.stride=64", "eval.stride has to be null"),
        ("eval.every=1", "eval.every=1 with eval.at_start=false has to be"),
        ("teacher.runs=outputs", "teacher.runs is given by the trainings before"),
        ("from=outputs", "from has to be null"),
        ("model=bigramm", "model=bigramm.*bigram"),
        ("seed=3", "seed: is given to each training"),
        ("then", "give the overrides of a training"),
    ],
)
def test_rules(words, reason):
    with pytest.raises(LabError, match=reason):
        recipe_of([*RECIPE, *words.split()])


def test_a_recipe_is_named_by_all_of_its_trainings():
    alone, taught = recipe_of(RECIPE), recipe_of([*RECIPE, "then", *RECIPE, "model=head"])
    assert taught.fingerprint.startswith(f"{alone.fingerprint}+")
    assert str(taught) == " ".join([*RECIPE, "then", *RECIPE, "model=head"])
    with pytest.raises(LabError, match="all trainings of"):
        recipe_of([*RECIPE, "then", *RECIPE, "corpus=tinyshakespeare_train"])


@pytest.mark.slow
def test_seeds_are_trained_once_and_what_they_took_is_added(tinyshakespeare_path, tmp_path):
    words = [*RECIPE, f"corpus.path={tinyshakespeare_path}"]
    recipe = recipe_of([*words, "then", *words, "then", *words, "teacher.share=0.9"])
    first, second = seeds_of(recipe, BUDGETS["10s"], tmp_path, 2, threads=1, jobs=2)
    assert first.loss != second.loss
    path = tmp_path / "seed-1" / "training-3"
    taught = RunDirectory(path)
    assert first.loss == taught.record["metrics"][METRIC]
    teachers = [Path(teacher["run"]) for teacher in taught.config["teacher"]["runs"]]
    assert teachers == [tmp_path / "seed-1" / f"training-{number}" for number in (1, 2)]
    configs = [RunDirectory(teacher).config for teacher in teachers]
    assert [config["seed"] for config in configs] == [2001, 1001]
    assert taught.config["seed"] == 1
    files = sorted((tmp_path / "seed-1").glob("*.spent.jsonl"))
    every = [json.loads(file.read_text().splitlines()[-1]) for file in files]
    assert len(every) == 3
    assert first.spent.cpu == sum(took["cpu"] for took in every) > 0

    assert seeds_of(recipe, BUDGETS["10s"], tmp_path, 2, threads=1) == [first, second]
    taught.update(seconds=1000.0)
    with pytest.raises(LabError, match="was trained by another command, too"):
        seeds_of(recipe, BUDGETS["10s"], tmp_path, 2, threads=1)


def test_a_training_that_was_killed_has_no_known_price(tmp_path):
    file = tmp_path / "training-1.spent.jsonl"
    assert spent_in(file) == (0, 0)
    file.write_text(
        '{"begun": "a", "pid": 1}\n{"cpu": 2.5, "wall": 1.5}\n'  # interrupted, and gone on with
        '{"begun": "b", "pid": 2}\n{"cpu": 1.0, "wall": 1.0}\n'
    )
    assert spent_in(file) == (3.5, 2.5)
    with file.open("a") as lines:
        lines.write('{"begun": "c", "pid": 3}\n')
    with pytest.raises(LabError, match="nobody knows what it took"):
        spent_in(file)


@pytest.mark.slow
def test_a_row_from_its_command(tinyshakespeare_path, tmp_path):
    (tmp_path / "records.md").write_text(f"# Records\n\n{BEGIN}\n{END}\n\nthe end\n")
    words = [*RECIPE, f"corpus.path={tinyshakespeare_path}"]
    folder = ["--folder", str(tmp_path / "runs")]
    records_command.main(tmp_path, [*folder, "10s", *words], commit="c" * 40)
    (kept,) = read_rows(tmp_path / "records.csv")
    assert kept.is_record
    assert kept.mean == pytest.approx(4.6, abs=0.4)
    assert 0 < max(kept.cpu_seconds) < 20
    assert f"`{kept.recipe}`" in (tmp_path / "records.md").read_text()
    with pytest.raises(SystemExit):
        records_command.main(tmp_path, [*folder, "10s", *words], commit="c" * 40)
    assert Path(tmp_path / "records.md").read_text().endswith("\n\nthe end\n")
