"""What the tab is answered of single runs: side by side, and what they showed by step."""

import json
import os
import shutil
import struct
import sys
import threading
import zlib
from pathlib import Path

import pytest
from PIL import Image
from sweeps.board.test_routes import Asked
from sweeps.made import made
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from lmlab.display.for_tensorboard import summaries
from lmlab.display.for_tensorboard.event_files import Records, numbered, record
from lmlab.files import read_small
from lmlab.sweeps.board.single.shown import Shown, is_picture

LAYER = "view/attention/layer_1"
HOSTILE = "<script>alert(1)</script>\n\u202eright to left" + "x" * 5000


def event(step: int, *values: Summary) -> Event:
    return Event(step=step, summary=Summary(value=[v for s in values for v in s.value]))


def showed(run: Path, *steps: int, number: int = 1, tag: str = LAYER) -> None:
    """Samples and pictures, as a run writes them."""
    records = Records(numbered(run, number))
    for step in steps:
        picture = Image.new("RGB", (8, step + 1))
        texts = summaries.text("sample", f"{HOSTILE} at {step}"), summaries.text("setup/x", "y")
        records.add_event(event(step, *texts, summaries.image(tag, picture)))
    records.close()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A log folder with two settings of two seeds."""
    folder = tmp_path / "logs" / "sweeps" / "rates"
    (folder / ".launches").mkdir(parents=True)
    for lr, loss in ((0.1, 2.5), (0.01, 2.4)):
        for seed in (1, 2):
            swept = {"optimizer.lr": lr, "seed": seed}
            curve = {step: loss + 1 / step + 0.01 * seed for step in (10, 20, 30)}
            made(folder, swept, loss + 0.01 * seed, curve=curve, versions={"torch": str(lr)})
    return folder


@pytest.fixture
def asked(sweep: Path) -> Asked:
    return Asked(sweep.parents[1])


def names(sweep: Path) -> list[str]:
    return [f"sweeps/rates/{path.name}" for path in sorted(sweep.glob("job-*"))]


def test_what_differs_between_runs_and_settings(asked, sweep):
    first, _, third, _ = names(sweep)
    about = asked.json("side", name=json.dumps([first, third]))
    assert [one["title"] for one in about["columns"]] == [Path(n).name for n in (first, third)]
    assert about["keys"] == [["optimizer.lr", ["0.1", "0.01"], True]]
    figures = {name: texts for name, texts, _ in about["figures"]}
    assert figures["val/loss_full, nats per token"] == ["2.5100", "2.4100"]
    assert about["machine"][0] == ["torch", ["0.1", "0.01"], True]

    about = asked.json("side", name=json.dumps([f"~{first}", f"~{third}"]))
    assert [one["title"] for one in about["columns"]] == ["optimizer.lr=0.1", "optimizer.lr=0.01"]
    assert [one["n"] for one in about["columns"]] == [2, 2]
    assert about["keys"] == [["optimizer.lr", ["0.1", "0.01"], True]]
    figures = {name: texts for name, texts, _ in about["figures"]}
    assert figures["val/loss_full, nats per token"] == ["2.5150 ± 0.0071", "2.4150 ± 0.0071"]


def test_runs_of_different_sweeps_and_one_that_is_gone(asked, sweep):
    other = made(sweep.parent / "gpt", None, 2.2, config={"data.block_size": 32, "new": [1]})
    asked.look()
    words = [f"~{names(sweep)[0]}", f"sweeps/gpt/{other.name}", "sweeps/gone"]
    about = asked.json("side", name=json.dumps(words))
    assert about["columns"][0]["title"] == "optimizer.lr=0.1 (sweeps/rates)"
    assert about["columns"][2]["problem"] == "there is no such run any more"
    keys = {key: texts for key, texts, _ in about["keys"]}
    assert keys["data.block_size"] == ["8", "32", ""]
    assert keys["new"] == ["-", "[1]", ""]
    assert "seed" not in keys
    shutil.rmtree(other)
    asked.look()
    assert asked.json("side", name=json.dumps(words))["columns"][1]["problem"]


def test_curves_of_one_and_of_several(asked, sweep):
    runs = names(sweep)
    values = {}
    for words in ([runs[0]], [f"~{runs[0]}", f"~{runs[2]}"]):
        chart = asked.json("curves", name=json.dumps(words))["curves"]
        (rows,) = chart["datasets"].values() if "datasets" in chart else [chart["data"]["values"]]
        values[len(words)] = [row for row in rows if row["step"] == 30]
    assert [row["mean"] for row in values[1]] == [pytest.approx(2.5 + 1 / 30 + 0.01)]
    assert [row["mean"] for row in values[2]] == pytest.approx([2.515 + 1 / 30, 2.415 + 1 / 30])
    assert all(row["sd"] == pytest.approx(0.00707, abs=1e-5) for row in values[2])
    assert asked.json("curves", name=json.dumps(["gone"])) == {}


@pytest.mark.parametrize("name", ["", "[]", "{", "[" * 3000, "[1]", '{"a": 1}', '["a"]' * 2])
def test_what_is_no_choice_is_refused(asked, name):
    for address in ("side", "curves", "kept"):
        assert asked.get(address, name=name).status_code == 400
    too_many = json.dumps(list("abcdefg"))
    assert asked.get("side", name=too_many).text == "choose one to 6, not 7"


def test_samples_and_pictures_at_the_same_step(asked, sweep):
    first, second, third, _ = names(sweep)
    for run, steps in ((first, (10, 20, 30)), (second, (10, 20)), (third, (5,))):
        showed(sweep / Path(run).name, *steps)
    about = asked.json("kept", name=json.dumps([first, second]))
    assert (about["steps"], about["step"]) == ([10, 20], 20)
    for column in about["columns"]:
        (text,) = column["texts"].values()  # in lines that a screen can hold
        assert text.replace("\n", "") == f"{HOSTILE} at 20".replace("\n", "")
        assert [tag for tag, _ in column["pictures"]] == [LAYER]
    about = asked.json("kept", name=json.dumps([first, second]), step="10")
    assert about["columns"][1]["texts"]["sample"].endswith("at 10")
    about = asked.json("kept", name=json.dumps([first, third]))  # they share none
    assert (about["steps"], about["step"]) == ([5, 10, 20, 30], 30)
    assert about["columns"][1] == {"texts": {}, "pictures": []}
    about = asked.json("kept", name=json.dumps([f"~{first}", "gone"]))
    assert about["steps"] == [10, 20, 30]

    answer = asked.get("picture", name=first, tag=LAYER, step="20")
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.data.startswith(b"\x89PNG")
    for query in (
        *({"step": "20"}, {"tag": LAYER}, {"tag": LAYER, "step": "-1"}),
        *({"tag": "sample", "step": "20"}, {"tag": LAYER, "step": "9" * 5000}),
    ):
        assert asked.get("picture", name=first, **query).status_code == 404
    assert asked.get("picture", name="../x", tag=LAYER, step="20").status_code == 404


def test_what_was_read_is_not_read_again(sweep):
    run = sweep / "job"
    run.mkdir()
    showed(run, 10, 20)
    shown = Shown(run, sweep)
    shown.look()
    assert shown.steps() == {10, 20}
    path = numbered(run, 1)
    showed(run, 30)  # it is appended
    with path.open("r+b") as file:  # what was read before is nonsense by now
        file.write(bytes(50))
    shown.look()
    assert shown.steps() == {10, 20, 30}
    with path.open("ab") as file:  # half a record
        file.write(record(event(40, summaries.text("sample", "x")))[:-3])
    shown.look()
    assert shown.steps() == {10, 20, 30}


def test_what_a_run_wrote_before_it_went_on_is_not_shown(sweep):
    run = sweep / "job"
    run.mkdir()
    showed(run, 10, 20, 30)
    shown = Shown(run, sweep)
    shown.look()
    records = Records(numbered(run, 2))
    records.add_event(Event(step=21, session_log=SessionLog(status=SessionLog.START)))
    records.close()
    showed(run, 25, number=2)
    shown.look()
    assert shown.steps() == {10, 20, 25}
    kept = numbered(run, 1).read_bytes()
    numbered(run, 1).unlink()  # it begins again
    numbered(run, 1).with_suffix(".new").write_bytes(kept[:200])
    numbered(run, 1).with_suffix(".new").rename(numbered(run, 1))
    shown.look()
    assert shown.steps() == {25}


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_what_is_no_picture_is_not_shown(asked, sweep):
    bad = {
        "html": b"<html><script>alert(1)</script>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "gif": b"GIF89a" + bytes(100),
        "bomb": png(60_000, 60_000),
        "wide": png(200_000, 1),
        "empty": png(0, 5),
        "long": png(8, 8) + bytes(1 << 23),
        "none": b"",
    }
    assert not any(map(is_picture, bad.values()))
    assert is_picture(png(2, 2, bytes(14)))
    name = names(sweep)[0]
    records = Records(numbered(sweep / Path(name).name, 1))
    for tag, content in bad.items():
        image = Summary.Image(encoded_image_string=content)
        records.add_event(event(1, Summary(value=[Summary.Value(tag=tag, image=image)])))
    records.close()
    (sweep / Path(name).name / "events.out.tfevents.2").write_bytes(os.urandom(5000))
    assert asked.json("kept", name=json.dumps([name]))["steps"] == []
    for tag in bad:
        assert asked.get("picture", name=name, tag=tag, step="1").status_code == 404


@pytest.mark.skipif(os.name == "nt", reason="links want a privilege there")
def test_pictures_are_not_read_through_a_link(asked, sweep, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    showed(secret, 10)
    run = sweep / Path(names(sweep)[0]).name
    numbered(run, 1).symlink_to(numbered(secret, 1))
    question = json.dumps([names(sweep)[0]])
    assert asked.json("kept", name=question)["steps"] == []
    numbered(run, 1).unlink()
    showed(run, 20)
    assert asked.json("kept", name=question)["steps"] == [20]
    run.rename(tmp_path / "moved")
    run.symlink_to(tmp_path / "moved")  # by now the whole run is a link
    about = asked.json("run", name=names(sweep)[0])
    assert about["status"] == "unreadable"
    assert about["files"] == []
    assert asked.get("picture", name=names(sweep)[0], tag=LAYER, step="20").status_code == 404


@pytest.mark.skipif(os.name == "nt", reason="links want a privilege there")
def test_a_link_that_is_put_there_while_a_file_is_read_leads_nowhere(tmp_path):
    secret, run, inner = tmp_path / "secret", tmp_path / "run", tmp_path / "run" / "inner"
    for folder, content in ((secret, "secret"), (run, "own"), (inner, "own")):
        folder.mkdir()
        (folder / "file").write_text(content)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            (run / "link").symlink_to(secret / "file")
            (run / "link").replace(run / "file")
            (run / "new").write_text("own")
            (run / "new").replace(run / "file")
            inner.rename(run / "aside")
            inner.symlink_to(secret)
            inner.unlink()
            (run / "aside").rename(inner)

    thread = threading.Thread(target=swap)
    thread.start()
    contents = set()
    try:
        for _ in range(3000):
            for path in (run / "file", inner / "file"):
                try:
                    contents.add(read_small(path, 100, within=run))
                except (OSError, ValueError):
                    contents.add(None)
    finally:
        over.set()
        thread.join()
    assert contents <= {b"own", b"", None}
    assert b"own" in contents


def test_parents_and_children_know_each_other(asked, sweep):
    parent = names(sweep)[0]
    told = {"run": f"elsewhere/rates/{Path(parent).name}", "step": 90, "fingerprint": "x"}
    child = made(sweep.parent / "long", None, 2.2, parent=told)
    made(sweep.parent / "long", None, 2.2, parent="nonsense")
    lost = made(sweep.parent / "long", None, 2.2, parent={"run": "outputs/gone", "step": None})
    asked.look()
    about = asked.json("run", name=parent)
    assert about["children"] == [
        {"title": f"sweeps/long/{child.name}", "name": f"sweeps/long/{child.name}", "step": 90}
    ]
    assert about["parents"] == []
    about = asked.json("run", name=f"sweeps/long/{child.name}")
    assert about["parents"] == [{"title": parent, "name": parent, "step": 90}]
    about = asked.json("run", name=f"sweeps/long/{lost.name}")
    assert about["parents"] == [{"title": "outputs/gone", "name": None, "step": None}]


def test_a_run_is_told_as_it_is_at_the_moment(asked, sweep):
    """However long ago all runs were looked at."""
    name = names(sweep)[0]
    path = sweep / Path(name).name
    assert asked.json("run", name=name)["status"] == "done"
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(record | {"status": "failed", "error": "now"}))
    (path / "train.log").write_text("a new line\n")
    about = asked.json("run", name=name)
    assert (about["status"], about["error"], about["log"]) == ("failed", "now", "a new line\n")
    assert ["train.log", 11] in about["files"]
    assert "try again" in dict(about["commands"])
    shutil.rmtree(path)
    assert asked.json("run", name=name)["error"] == "it was moved or deleted"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_name_that_is_no_text_has_one_that_an_address_can_hold(asked, sweep):
    folder = sweep.parent / "odd"
    for name in (b"\xff", b"\xfe"):
        made(folder, None, 2.4).rename(os.fsdecode(os.fsencode(folder / "x") + name))
    asked.look()
    jobs = asked.json("sweep", name="sweeps/odd")["jobs"]
    assert [job["run"] for job in jobs] == ["sweeps/odd/x\\udcfe", "sweeps/odd/x\\udcff"]
    for job in jobs:
        assert asked.json("run", name=job["run"])["status"] == "done"
        assert asked.json("side", name=json.dumps([job["run"], f"~{job['run']}"]))["figures"]
