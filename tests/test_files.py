"""Files that are whole or not there."""

import os
from pathlib import Path

import pytest

from lmlab.errors import LabError
from lmlab.files import (
    atomic_file,
    link_or_copy,
    path_typed,
    remove_unfinished,
    write_atomically,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_the_user_gives_files(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "file", b"text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_the_umask_is_never_set(tmp_path, monkeypatch):
    """It is the whole process's: what another thread makes meanwhile would be readable by all."""
    masks: list[int] = []
    monkeypatch.setattr(os, "umask", masks.append)
    write_atomically(tmp_path / "file", b"text")
    assert masks == []


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    with pytest.raises(LabError, match=r"cannot write .*/gone/file: No such file or directory"):
        write_atomically(tmp_path / "gone/file", b"text")
    assert names_in(tmp_path) == []
    write_atomically(tmp_path / "gone/file", b"text", parents=True)
    assert names_in(tmp_path / "gone") == ["file"]


def test_nothing_is_left_of_a_write_that_fails(tmp_path):
    write_atomically(tmp_path / "file", b"before")

    def interrupted() -> None:
        with atomic_file(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


def test_only_what_killed_writes_leave_is_removed(tmp_path):
    left = [".run.json.0123abcd", ".step-00000012.ckpt.k_3x9vab", ".metrics.csv.abcdefgh"]
    kept = [".lock", ".job.lock", ".notes.markdown", "run.json", ".run.json", ".run.json.swp"]
    for name in left + kept:
        (tmp_path / name).touch()
    (tmp_path / ".run.json.00000000").mkdir()
    remove_unfinished(tmp_path, older_than=60)
    assert len(names_in(tmp_path)) == len(left + kept) + 1
    remove_unfinished(tmp_path)
    assert names_in(tmp_path) == sorted([*kept, ".run.json.00000000"])
    remove_unfinished(tmp_path / "no such folder")


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_outlives_the_first(tmp_path, monkeypatch, links):
    if not links:  # as on a file system that has none

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    one, other = tmp_path / "one.ckpt", tmp_path / "other.ckpt"
    for content in (b"first", b"second"):
        write_atomically(one, content)
        link_or_copy(one, other)
        link_or_copy(one, other)
        assert other.read_bytes() == content
    write_atomically(one, b"third")
    assert other.read_bytes() == b"second"
    one.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["other.ckpt"]
    with pytest.raises(LabError, match="cannot write"):
        link_or_copy(other, tmp_path / "nowhere" / "x.ckpt")


def test_a_tilde_is_a_home_unless_something_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert path_typed("~/runs", "run") == Path("/home/me/runs")
    with pytest.raises(LabError, match="run=~nobody-at-all/runs: there is no such home folder"):
        path_typed("~nobody-at-all/runs", "run")
    Path("~nobody-at-all/runs").mkdir(parents=True)
    assert path_typed("~nobody-at-all/runs", "run") == Path("~nobody-at-all/runs")
