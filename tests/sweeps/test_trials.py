"""A search by its runs: history, importances, parallel coordinates."""

import json
import math
from pathlib import Path

import pytest
from sweeps.drawn import rows, words
from sweeps.made import made

from lmlab.sweeps.compare.trials import STUDIES, importances, trials_of
from lmlab.sweeps.figures.charts import svg_of
from lmlab.sweeps.report.questions import Asked
from lmlab.sweeps.search.study import FILES
from lmlab.sweeps.table.settings import load


def searched(folder: Path, n: int = 24) -> Path:
    """Only the rate matters; a quarter is pruned, one diverged, one failed."""
    folder.mkdir(exist_ok=True)
    (folder / "study.journal").touch()
    for i in range(n):
        rate = 10 ** (-4 + 3 * (i * 7 % n) / n)
        swept = {"optimizer.lr": rate, "model": "ab"[i % 2], "loss": i * 5 % n}
        loss = 2 + abs(math.log10(rate / 1e-2)) + i / 1000
        status = "pruned" if i % 4 == 3 else "done"
        made(folder, swept, loss, status, curve={10: 3.0, 20: loss})
    made(folder, {"optimizer.lr": 1.0, "model": "a", "loss": 3}, math.inf)
    made(folder, {"optimizer.lr": 2.0, "model": "b", "loss": 3}, None, "failed")
    return folder


def test_what_matters_comes_first(tmp_path):
    trials = trials_of(load([searched(tmp_path / "search")]))
    assert len(trials.runs) == 24
    assert trials.runs["is_pruned"].sum() == 6
    shares = importances(trials)
    assert shares.index[0] == "optimizer.lr"
    assert shares["optimizer.lr"] > 0.5
    assert shares.sum() == pytest.approx(1)


def test_the_report_has_them_of_a_study_alone(tmp_path):
    folder = searched(tmp_path / "search")
    (section,) = Asked(load([folder])).answers()
    assert section.title == "search"
    assert section.columns[0].cells[0] == "optimizer.lr"
    assert list(section.figures) == ["search-history", "search-importances", "search-parallel"]
    history, _, parallel = section.figures.values()
    best = [row["best"] for row in rows(history, "number", "best")]
    assert best == sorted(best, reverse=True)
    assert len(rows(history, "number", "best")) == 24
    drawn = rows(parallel, "axis", "at", "number")
    assert len(drawn) == 24 * 4  # three keys, and the loss
    assert all(0 <= row["at"] <= 1 for row in drawn)
    assert '"loss"' in words(parallel)
    for chart in section.figures.values():
        assert json.dumps(chart.to_dict())  # checked by Vega-Lite's schema
        assert b"NaN" not in svg_of(chart)
    (folder / "study.journal").unlink()
    assert list(Asked(load([folder])).answers()) == []


def test_few_trials_have_a_history_and_no_importances(tmp_path):
    (section,) = Asked(load([searched(tmp_path / "search", 4)])).answers()
    assert list(section.figures) == ["search-history", "search-parallel"]
    assert "importances want 10 trials or more" in section.notes


def test_a_study_is_known_by_its_file():
    assert set(STUDIES) == set(FILES.values())
