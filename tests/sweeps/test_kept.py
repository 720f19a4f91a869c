"""What a report leaves in a folder, and what it leaves alone."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from sweeps.made import made

from lmlab.errors import LabError
from lmlab.handles import Sweep
from lmlab.sweeps import kept
from lmlab.sweeps.command import main
from lmlab.sweeps.kept import Kept
from lmlab.sweeps.reporting import report


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two models, two seeds each."""
    path = tmp_path / "runs"
    for model, loss in (("head", 2.0), ("bigram", 3.0)):
        for seed in (1, 2):
            made(path, {"model": model, "seed": seed}, loss + seed / 10, curve={10: 3.0, 20: loss})
    return path


def everything_in(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_looking_writes_only_where_a_sweep_was_begun(folder, capsys):
    before = everything_in(folder)
    main([str(folder)])
    assert "2.1500 ± 0.0707" in capsys.readouterr().out
    assert everything_in(folder) == before
    main([str(folder), "--write"])
    assert (folder / "report.html").is_file()
    other = shutil.copytree(folder, folder.with_name("other"), ignore=lambda *_: ["report.html"])
    (other / ".launches").mkdir()
    main([str(other)])
    assert (other / "report.html").is_file()


def test_a_poorer_report_takes_no_other_s_place(folder, capsys):
    main([str(folder), "--write", "--at", "20steps"])
    before = everything_in(folder)
    for words, lacks in (
        (["--no-plots"], "--at 20steps, pictures"),
        (["--no-plots", "--at", "20steps"], "pictures"),
        ([], "--at 20steps"),
    ):
        main([str(folder), "--write", *words])
        said = " ".join(capsys.readouterr().out.split())
        assert f"the report in {folder} stays: it has {lacks}, too" in said
        assert everything_in(folder) == before
    main([str(folder), "--write", "--at", "20steps", "--at", "10steps"])
    assert "at 10 steps" in (folder / "report.html").read_text("utf-8")
    (folder / "report.html").unlink()
    main([str(folder), "--write", "--no-plots"])
    assert '"curves": {' not in (folder / "report.html").read_text("utf-8")
    assert not (folder / "plots").exists()


def test_a_report_at_the_end_has_what_was_asked_before(folder):
    main([str(folder), "--write", "--no-plots", "--at", "20steps", "--to", "2.5"])
    made(folder, {"model": "mlp", "seed": 1}, 2.5, curve={10: 3.0, 20: 2.5})
    Sweep(folder).report()  # as at the end of a sweep
    page = (folder / "report.html").read_text("utf-8")
    assert "at 20 steps" in page
    assert "mlp" in page
    assert '"curves": {' in page


OWN = ["plots/mine.png", "plots/notes/a.txt", "leaderboard.txt", "other/events.out.tfevents.1.me"]


def test_what_is_somebody_s_own_is_neither_deleted_nor_replaced(folder, capsys):
    report(folder)
    for name in OWN:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(name)
    drawn = folder / "plots/loss-by-model.png"
    drawn.write_bytes(b"drawn by hand")
    report(folder)
    assert "left as they are, for no report wrote them: plots/loss-by-model.png" in " ".join(
        capsys.readouterr().out.split()
    )
    for run in list(folder.glob("job-*"))[1:]:
        shutil.rmtree(run)
    report(folder)
    assert [name for name in OWN if (folder / name).read_text() != name] == []
    assert drawn.read_bytes() == b"drawn by hand"


def test_nothing_is_replaced_that_was_there_before_the_first_report(folder):
    names = ["report.html", "leaderboard.csv", "plots/curves.png", "scaling.csv"]
    (folder / "plots").mkdir()
    for name in names:
        (folder / name).write_text("mine")
    report(folder)
    assert [(folder / name).read_text() for name in names] == ["mine"] * 4
    assert (folder / "leaderboard.md").is_file()


def test_nothing_is_written_or_deleted_through_a_link_out_of_the_folder(folder, tmp_path):
    report(folder)
    outside = tmp_path / "outside"
    shutil.move(folder / "plots", outside / "plots")
    (folder / "plots").symlink_to(outside / "plots")
    shutil.move(folder / "report.html", outside)
    (folder / "report.html").symlink_to(outside / "report.html")
    for run in list(folder.glob("job-*"))[1:]:
        shutil.rmtree(run)
    before = everything_in(outside)
    report(folder)
    assert everything_in(outside) == before


def in_the_way(path: Path, what: str) -> None:
    path.parent.mkdir(exist_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "circle":
        path.symlink_to(path.name)
    else:
        path.mkdir()


@pytest.mark.parametrize("what", ["pipe", "circle", "folder"])
def test_what_is_no_file_is_left_and_not_waited_for(folder, what, capsys):
    names = ["leaderboard.md", "runs.csv", "scaling.csv", "differences.csv", "plots/curves.png"]
    for name in names:
        in_the_way(folder / name, what)
    for run in list(folder.glob("job-*"))[:2]:
        (run / "metrics.csv").unlink()
        in_the_way(run / "metrics.csv", what)
        in_the_way(run / "events.out.tfevents.001", what)
    main([str(folder), "--write", "--at", "1s"])
    assert (folder / "report.html").is_file()
    assert [name for name in names if (folder / name).is_file()] == []


@pytest.mark.parametrize(
    "record",
    [
        *("[]", "{", "[" * 99_999, '{"asked": [], "files": {"a": [1]}}', "\x00"),
        json.dumps({"asked": ["--at soon", "--to x", "--fit"], "files": {}}),
        json.dumps({"asked": [], "files": {"../../mine": [kept.digest(b"mine")], "": [""]}}),
    ],
)
def test_a_record_that_somebody_else_wrote_reaches_nothing_outside(folder, tmp_path, record):
    (tmp_path.parent / "mine").write_bytes(b"mine")
    (folder / kept.RECORD).write_text(record)
    with suppress(LabError):
        report(folder, plots=False)
    assert (tmp_path.parent / "mine").read_bytes() == b"mine"


def test_what_was_cut_short_between_record_and_file_is_replaced(folder):
    files = {"a": b"first", "b/c": b"second"}
    with Kept.opened(folder) as before:
        assert before.replace(files, frozenset()) == []
    with Kept.opened(folder) as later:
        later.replace({"a": b"third", "b/c": b"fourth"}, frozenset())
    (folder / "b/c").write_bytes(b"second")  # killed before it came to this one
    with Kept.opened(folder) as again:
        assert again.replace({"a": b"fifth"}, frozenset()) == []
    assert (folder / "a").read_bytes() == b"fifth"
    assert not (folder / "b").exists()
