"""`last`, and a folder of runs: the newest in it."""

import json

import pytest

from lmlab.errors import LabError
from lmlab.runs.newest import run_meant


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs in outputs/, of which bigram/c was started last, and what is no run."""
    monkeypatch.chdir(tmp_path)
    for place, started in (
        ("outputs/gpt/a", "2026-01-01T10:00:00+00:00"),
        ("outputs/gpt/b", "2026-01-03T07:00:00+09:00"),  # an hour before the next
        ("outputs/bigram/c", "2026-01-02T23:00:00+00:00"),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").write_text("")
        (tmp_path / place / "run.json").write_text(json.dumps({"started": started}))
    (tmp_path / "outputs" / "gpt" / "z").mkdir()
    (tmp_path / "outputs" / "gpt" / "z" / "run.json").write_text("{")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("last", "outputs/bigram/c"),
        ("last@best", "outputs/bigram/c@best"),
        ("last:gpt", "outputs/gpt/b"),
        ("last:gpt@200", "outputs/gpt/b@200"),
        ("outputs/gpt", "outputs/gpt/b"),
        ("outputs/gpt/", "outputs/gpt/b"),
        ("outputs/gpt@last", "outputs/gpt/b@last"),
        ("outputs/gpt/a", "outputs/gpt/a"),
        ("outputs", "outputs"),  # a folder of folders is refused where a run is opened
        ("nowhere", "nowhere"),
    ],
)
def test_what_stands_for_a_run(runs, typed, meant):
    assert run_meant(typed, "run") == meant


def test_where_there_is_none_it_says_so(runs):
    with pytest.raises(LabError, match=r"^run=last:head: there is no run in outputs/head$"):
        run_meant("last:head", "run")


def test_runs_may_be_kept_elsewhere(runs, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert run_meant("last", "from", str(tmp_path / "outputs")).endswith("outputs/bigram/c")
