"""Run directories in which something stands where a run keeps its files: links that lead out,
pipes, folders, links in a circle; and a disk that is full."""

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from small import FOX

from lmlab.errors import LabError
from lmlab.files import check_place, open_to_append, open_to_read, remove, write_atomically
from lmlab.runs.directory import RunDirectory


@pytest.fixture
def run(lab, trained, tmp_path) -> RunDirectory:
    """One that has a step left, beside an empty folder `outside`."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (path,) = Path("outputs/fox").iterdir()
    Path("outside").mkdir()
    run = RunDirectory(path)
    run.update(status="interrupted", step=1)
    return run


def emptied(path: Path) -> Path:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    return path


def a_link_out(path: Path) -> None:
    """What was there is elsewhere, or an empty file."""
    there = Path("outside", path.name).absolute()
    if path.exists():
        shutil.move(path, there)
    else:
        there.touch()
    emptied(path).symlink_to(there)


def a_link_to_nothing(path: Path) -> None:
    emptied(path).symlink_to(Path("outside/new").absolute())


def a_circle(path: Path) -> None:
    emptied(path).symlink_to(path.name)


def a_pipe(path: Path) -> None:
    os.mkfifo(emptied(path))


def a_folder(path: Path) -> None:
    (emptied(path) / "inside").mkdir(parents=True)


def a_file(path: Path) -> None:
    emptied(path).write_text("mine")


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


FILES = ["train.log", ".lock", "metrics.csv", "sample.txt", "tokenizer.json", "config.yaml"]
FILES += ["run.json", "projector_config.pbtxt", "projector/vectors.tsv", "events.out.tfevents.002"]
FILES += ["events.out.tfevents.002.end", "another.tfevents"]
FOLDERS = ["projector", "checkpoints"]


KINDS = [a_link_out, a_link_to_nothing, a_circle, a_pipe, a_folder, a_file]


def places(what: Callable[[Path], None]) -> list[str]:
    return {a_folder: FILES, a_file: FOLDERS}.get(what, FILES + FOLDERS)


@pytest.mark.parametrize("what", KINDS)
def test_a_run_says_what_stands_in_its_way(run, what: Callable[[Path], None]):
    whole = shutil.copytree(run.path, "whole")
    run.check_places()
    for name in places(what):
        shutil.rmtree(run.path)
        shutil.copytree(whole, run.path)
        what(run.path / name)
        with pytest.raises(LabError) as refused:
            run.check_places()
        assert f"{run.path}/{name}" in str(refused.value)


@pytest.mark.parametrize("what", KINDS)
def test_nothing_is_written_through_or_waited_for(lab, run, what: Callable[[Path], None]):
    whole = shutil.copytree(run.path, "whole")
    old, new = ["train", f"run={run.path}"], ["train", *FOX, f"run_dir={run.path}"]
    for name in {"train.log", "metrics.csv", "projector", "another.tfevents"} & {*places(what)}:
        for door in (old, new) if name == "train.log" else (old,):
            shutil.rmtree(run.path)
            shutil.copytree(whole, run.path)
            if door is new:
                (run.path / "run.json").unlink()
            what(run.path / name)
            outside, before = contents(Path("outside")), sorted(run.path.iterdir())
            status, _, err = lab(*door)
            assert contents(Path("outside")) == outside
            assert (status, err.count("\n")) == (2, 1), (name, door, err)
            assert f"{run.path}/{name}" in err
            assert sorted(run.path.iterdir()) == before


def test_a_checkpoint_is_not_read_through_a_link_out_of_the_run(lab, run):
    newest, before = run.checkpoints()
    a_link_out(newest)
    status, out, err = lab("generate", f"run={run.path}", "max_new_tokens=2")
    assert (status, err) == (0, "")
    assert f"is a link that leads out of {run.path}; going by the one before, {before.name}" in out
    a_link_out(run.best)
    for door in (
        ["evaluate", f"run={run.path}", "checkpoint=best"],
        ["train", f"from={run.path}@2"],
    ):
        status, _, err = lab(*door, *(["trainer.max_steps=3"] * (door[0] == "train")))
        assert (status, err.count("\n")) == (2, 1)
        assert "is a link that leads out of" in err


def test_links_that_stay_inside_and_links_to_the_whole_run_are_fine(lab, run, tmp_path):
    (run.path / "logs").mkdir()
    (run.path / "train.log").rename(run.path / "logs/first.log")
    (run.path / "train.log").symlink_to("logs/first.log")
    run.best.unlink()
    run.best.symlink_to(run.checkpoints()[0].name)
    shutil.move("outputs", "disk")
    Path("outputs").symlink_to(tmp_path / "disk")
    log = (run.path / "logs/first.log").read_text()
    assert lab("train", f"run={run.path}")[0] == 0
    assert (run.path / "logs/first.log").read_text().startswith(log)
    assert run.record["status"] == "done"
    assert lab("evaluate", f"run={run.path}", "checkpoint=best")[0] == 0


def test_files_of_others_in_a_run_directory_stay(lab, run):
    for path in run.checkpoints():
        path.unlink()
    mine = ["events.out.tfevents.1700000000.host.1.0", "notes.txt", "hpc_ckpt_mine.ckpt"]
    mine += [
        "checkpoints/step-00000001-good.ckpt",
        "checkpoints/step-1x.ckpt",
        "projector/mine.txt",
    ]
    for name in mine:
        (run.path / name).write_bytes(b"")
    assert lab("train", f"run={run.path}", "checkpoint.keep=1")[0] == 0
    assert [name for name in mine if not (run.path / name).is_file()] == []
    assert lab("train", f"from={run.path}", "trainer.max_steps=3", "run_dir=longer")[0] == 0


def test_others_loggers_write_through_no_link(lab, run):
    logger = {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "sub", "version": "v"}
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["logger"]["x"] = logger
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    for place in ("sub", "sub/v", "sub/v/metrics.csv"):
        (run.path / place).parent.mkdir(parents=True, exist_ok=True)
        (run.path / place).symlink_to(Path("outside").absolute())
        status, _, err = lab("train", f"run={run.path}")
        assert (status, err.count("\n")) == (2, 1)
        assert f"{run.path}/{place} leads out of {run.path}" in err
        (run.path / place).unlink()
    assert list(Path("outside").iterdir()) == []
    assert lab("train", f"run={run.path}")[0] == 0
    assert (run.path / "sub/v/metrics.csv").is_file()


def test_a_lock_that_holds_something_is_somebodys_own(lab, run):
    Path("mine.txt").write_text("mine")
    (run.path / ".lock").unlink()
    (run.path / ".lock").hardlink_to("mine.txt")
    status, _, err = lab("train", f"run={run.path}")
    assert (status, err.count("\n"), "is no lock of ours" in err) == (2, 1, True)
    assert Path("mine.txt").read_text() == "mine"


def test_a_log_of_several_names_is_written_under_one(tmp_path):
    (tmp_path / "other").write_text("first\n")
    os.link(tmp_path / "other", tmp_path / "log")
    with open_to_append(tmp_path / "log", tmp_path) as file:
        file.write(b"second\n")
    assert (tmp_path / "log").read_text() == "first\nsecond\n"
    assert (tmp_path / "other").read_text() == "first\n"


@pytest.mark.parametrize("nofollow", [True, False])
def test_a_path_is_looked_at_with_and_without_the_system_s_help(tmp_path, monkeypatch, nofollow):
    if not nofollow:  # as on Windows
        for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
            monkeypatch.delattr(os, name)
    run, outside = tmp_path / "run", tmp_path / "outside"
    (run / "inner").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("secret")
    (run / "out").symlink_to(outside)
    (run / "file").symlink_to(outside / "file")
    os.mkfifo(run / "pipe")
    (run / "within").symlink_to(run / "inner")
    for path in (run / "file", run / "out/file", run / "../outside/file", run / "pipe"):
        with pytest.raises(ValueError, match=r"leads out of|no regular file"):
            open_to_read(path, run)
        for door in (open_to_append, check_place):
            with pytest.raises(LabError, match=r"leads out of|is a pipe"):
                door(path, run)
    with pytest.raises(LabError, match="leads out of"):
        write_atomically(run / "out/new", b"", within=run)
    with pytest.raises(LabError, match="leads out of"):
        remove(run / "out/file", run)
    write_atomically(run / "file", b"mine", within=run)  # in the place of the link
    write_atomically(run / "within/new", b"new", within=run)
    assert open_to_read(run / "within/new", run).read() == b"new"
    assert contents(outside) == {outside / "file": b"secret"}


@contextmanager
def files_of_at_most(n: int) -> Iterator[None]:
    """As on a full disk: a write that goes beyond is an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [3000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_ends_in_one_line_and_loses_nothing(lab, run, size):
    sweep = ["-m", *FOX, "sweep.name=two", "optimizer.lr=1,2"]
    search = [*sweep[:-1], "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optimizer.lr=1,2"]
    doors = [["train", f"run={run.path}"], ["train", *FOX, "run_dir=new"], ["train", *sweep]]
    doors += [["train", *search, f"hydra.sweeper.storage={kind}"] for kind in ("journal", "sqlite")]
    doors += [["export", f"run={run.path}", "to=safetensors", "folder=out"]]
    kept = {path: path.read_bytes() for path in run.checkpoints()}
    for door in doors:
        with files_of_at_most(size):
            status, out, err = lab(*door)
        assert status in (0, 2), (door, out, err)
        assert err.count("\n") == (status == 2), (door, err)
        assert "Traceback" not in out + err
        shutil.rmtree("outputs/sweeps", ignore_errors=True)
    assert {path: path.read_bytes() for path in kept} == kept
    assert not Path("out").exists() or len(list(Path("out").iterdir())) == 2
    assert lab("train", f"run={run.path}")[0] == 0
    assert run.record["status"] == "done"


def test_a_name_is_one_line(lab, run):
    for name in ("fox\nrm -rf ~", "fox\x1b[2J", "fox\u2028"):
        status, _, err = lab("train", *FOX[:-1], f"name='{name}'")
        assert (status, err.count("\n")) == (2, 1)
        assert "one line, without control characters" in err
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("name: fox", 'name: "fox\\nrm -rf ~"'))
    status, _, err = lab("train", f"run={run.path}")
    assert (status, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("folder", ["x/..", "x/../../x/.."])
def test_a_folder_to_export_to_is_not_made_on_the_way(lab, run, folder):
    before = contents(Path())
    status, _, err = lab("export", f"run={run.path}", "to=safetensors", f"folder={folder}")
    assert (status, err.count("\n")) == (2, 1)
    assert contents(Path()) == before
