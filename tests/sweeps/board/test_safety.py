"""Whoever asks, however it is spelt, is told what lies below the log folder and nothing else."""

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from sweeps.board.test_runs import LAYER, showed
from sweeps.made import made
from tensorboard.backend.application import TensorBoardWSGI
from werkzeug.test import Client, TestResponse

from lmlab.sweeps.board.plugin import Board
from lmlab.sweeps.board.scan import Scan

SECRET = "nobody's business"
HOSTILE = [
    *("<script>alert(1)</script>", "x" * 5000, "a\nb\r\n"),
    *("\u202eright to left", "\x00\x1b[31m"),
]
ROUTES = (
    *("sweeps", "sweep", "figures", "run", "side", "curves", "kept", "picture", "index.js", "no"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log folder whose runs say hostile things, beside a secret."""
    logs = tmp_path / "logs"
    for i, words in enumerate(HOSTILE):
        run = made(
            logs / "odd", {"name": words, "seed": i}, None, "failed", error=words,
            versions={words: words}, processor=words, started=words, choices={words: words},
            parent={"run": words, "step": words}, metrics={words: 1.0}, git_commit=words,
        )  # fmt: skip
        (run / "sample.txt").write_text(words)
        (run / "train.log").write_text(words)
        showed(run, 10, tag=words[:200])
    (tmp_path / "private").mkdir()
    for name in ("run.json", "secret.txt", "events.out.tfevents.001"):
        (tmp_path / "private" / name).write_text(SECRET)
    return logs


@pytest.fixture
def client(folder: Path) -> Client:
    """TensorBoard itself, with the tab."""
    board = Board(Scan(folder), SimpleNamespace(bind_all=False, host=None))
    return Client(TensorBoardWSGI([board], path_prefix="/lab"))


def get(client: Client, path: str, host: str = "localhost", **more: object) -> TestResponse:
    return client.get(f"/lab/data/plugin/lmlab/{path}", headers={"Host": host}, **more)


def names_of(folder: Path) -> list[str]:
    return [f"odd/{path.name}" for path in sorted((folder / "odd").iterdir())]


@pytest.mark.parametrize(
    "up", ["..", "%2e%2e", "%252e%252e", "..%2f..", "....//..", "%c0%ae%c0%ae"]
)
def test_no_spelling_of_a_path_leads_out(client, folder, tmp_path, up):
    private = tmp_path / "private"
    paths = [f"{up}/private", f"odd/{up}/{up}/private", f"{up}\\private", str(private)]
    paths += [f"file://{private}", f"//{private}", f"{private}/secret.txt", f"./{up}/private/."]
    for path in paths:
        for route in ("sweep", "figures", "run", "picture"):
            answer = get(client, f"{route}?name={path}&tag={LAYER}&step=10")
            assert answer.status_code == 404, (route, path)
            assert SECRET not in answer.text
        for route in ("side", "kept", "curves"):
            answer = get(client, f"{route}?name={json.dumps([path, '~' + path])}")
            assert SECRET not in answer.text
        for address in (path, f"frontend/{path}", f"index.js/{path}"):
            answer = get(client, address)
            assert answer.status_code in (301, 308, 400, 404), address
            assert SECRET not in answer.text


@pytest.mark.skipif(os.name == "nt", reason="links want a privilege there")
def test_no_link_leads_out(client, folder, tmp_path):
    run = folder / names_of(folder)[0]
    for name in (
        "sample.txt",
        "train.log",
        "metrics.csv",
        "config.yaml",
        "events.out.tfevents.001",
    ):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(tmp_path / "private" / "secret.txt")
    (run / "checkpoints").symlink_to(tmp_path / "private")
    (folder / "linked").symlink_to(tmp_path / "private")
    name = names_of(folder)[0]
    for route in ROUTES:
        for named in (name, json.dumps([name]), "linked"):
            answer = get(client, route, query_string={"name": named, "tag": LAYER, "step": "10"})
            assert SECRET not in answer.text, route
    files = get(client, "run", query_string={"name": name}).json["files"]
    assert ["sample.txt", None] in files
    assert not any("secret" in file for file, _ in files)


def test_every_answer_says_what_it_is_and_is_for_this_page_alone(client, folder):
    name = names_of(folder)[0]
    kinds = {"application/json", "application/javascript", "text/plain", "image/png", "text/css"}
    statuses = set()
    for route in (*ROUTES, "style.css", "vega.js"):
        tag = HOSTILE[0]
        for query in ({}, {"name": name, "tag": tag, "step": "10"}, {"name": json.dumps([name])}):
            for more in ({}, {"Host": "evil.example"}):
                headers = {"Host": "localhost"} | more
                path = f"/lab/data/plugin/lmlab/{route}"
                answer = client.get(path, headers=headers, query_string=query)
                statuses.add(answer.status_code)
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                assert answer.headers["Content-Type"].partition(";")[0] in kinds
                assert "Access-Control-Allow-Origin" not in answer.headers
                assert more == {} or answer.status_code == 403
    assert statuses == {200, 400, 403, 404}


def test_hostile_words_are_text_in_json(client, folder):
    """What a page makes of them is seen in a browser; here nothing is lost, and nothing breaks."""
    get(client, "sweeps")
    for words, name in zip(HOSTILE, names_of(folder), strict=True):
        about = get(client, "run", query_string={"name": name}).json
        assert about["error"] in (" ".join(words.split()), f"{words[:2000]}…")
        assert about["sample"] == words.replace("\r\n", "\n") or about["sample"] == words
        kept = get(client, "kept", query_string={"name": json.dumps([name])}).json
        (column,) = kept["columns"]
        ((tag, _),) = column["pictures"]
        answer = get(client, "picture", query_string={"name": name, "tag": tag, "step": "10"})
        assert answer.headers["Content-Type"] == "image/png"
    every = json.dumps([f"~{name}" for name in names_of(folder)])
    for route in ("side", "curves", "kept"):
        assert get(client, route, query_string={"name": every}).status_code == 200


def test_half_a_character_in_a_record_is_a_row_that_says_so(client, folder):
    run = folder / names_of(folder)[0]
    (run / "run.json").write_text('{"status": "\\ud800", "step": 1}')
    about = get(client, "run", query_string={"name": names_of(folder)[0]}).json
    assert about["status"] == "unreadable"


OURS = ("localhost", "LOCALHOST:6006", "127.0.0.1", "[::1]:6006", "10.1.2.3", socket.gethostname())
OTHERS = (
    *("evil.example", "evil.example:80", "localhost.evil.example:6006", "127.0.0.1.nip.io"),
    *("localhost@evil.example", "[::1].evil.example", "a,localhost", "localhost."),
    *("0x7f000001", "2130706433"),
)


@pytest.mark.parametrize("host", [*OURS, *OTHERS])
def test_a_page_that_comes_by_another_name_reads_nothing(client, folder, host):
    for route in ROUTES:
        assert (get(client, route, host).status_code == 403) == (host in OTHERS), route
    is_open = SimpleNamespace(bind_all=True, host=None)
    is_open_to_all = Client(TensorBoardWSGI([Board(Scan(folder), is_open)], path_prefix="/lab"))
    assert get(is_open_to_all, "sweeps", host).status_code in (200, 400)  # 400: it is no host


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "LOOK"])
def test_nothing_but_get_is_answered(client, folder, method):
    before = sorted(path.name for path in folder.rglob("*"))
    for route in ROUTES:
        path = f"/lab/data/plugin/lmlab/{route}"
        answer = client.open(path, method=method, headers={"Host": "localhost"}, data=b"x")
        assert answer.status_code == 405
    head = client.head("/lab/data/plugin/lmlab/sweeps", headers={"Host": "localhost"})
    assert (head.status_code, head.data) == (200, b"")
    assert sorted(path.name for path in folder.rglob("*")) == before
