"""What the tab is answered, in process: what lies below the log folder, and nothing else."""

import json
import math
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from sweeps.made import made
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client, TestResponse

from lmlab.runs.directory import RunDirectory
from lmlab.sweeps.board import answers, scan
from lmlab.sweeps.board.plugin import Board, BoardLoader
from lmlab.sweeps.journal.journal import FOLDER, Event, Journal
from lmlab.sweeps.journal.planned import LaunchPlan
from lmlab.sweeps.table.raced import RACE, Raced
from lmlab.sweeps.table.settings import runs_frame
from lmlab_tensorboard import SweepsPlugin

HOSTILE = "<script>alert(1)</script>\n\u202eright to left" + "x" * 5000


class Asked:
    """A board on a folder, and somebody who asks it."""

    def __init__(self, folder: Path, flags: Any = None):
        self.board = Board(scan.Scan(folder), flags)
        self.client = Client(self.board)

    def get(
        self, address: str, host: str = "localhost:6006", etag: str | None = None, **query: str
    ) -> TestResponse:
        headers = {"Host": host} | ({} if etag is None else {"If-None-Match": etag})
        return self.client.get(f"/data/plugin/lmlab/{address}", headers=headers, query_string=query)

    def json(self, address: str, **query: str) -> Any:
        answer = self.get(address, **query)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.data, parse_constant=pytest.fail)

    def look(self) -> None:
        """As its thread does now and then; answers may be as old as five times their cost."""
        self.board._scan.look()
        self.board._answers.forget()
        self.board._of_runs._answers.forget()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log folder with one sweep, beside something that is nobody's business."""
    logs = tmp_path / "logs"
    (logs / "sweeps" / "rates" / FOLDER).mkdir(parents=True)
    for lr, loss in ((0.1, 2.5), (0.01, 2.4)):
        for seed in (1, 2, 3):
            swept = {"optimizer.lr": lr, "seed": seed}
            curve = {10: 3.0, 20: loss}
            made(logs / "sweeps" / "rates", swept, loss + 0.01 * seed ** (1 + lr), curve=curve)
    made(tmp_path / "private", {"seed": 1}, 1.0)
    return logs


def test_all_sweeps_are_listed(folder):
    made(folder / "gpt", None, 2.2)
    made(folder / "gpt", None, None, "failed", error="a disk is gone")
    rates, plain = sorted(Asked(folder).json("sweeps")["sweeps"], key=lambda one: one["jobs"])[::-1]
    assert (rates["sweep"], rates["jobs"], rates["counts"]) == ("sweeps/rates", 6, [["done", 6]])
    assert rates["is_launched"]
    assert rates["best"] == pytest.approx(2.41)
    assert (plain["sweep"], plain["counts"]) == ("gpt", [["done", 1], ["failed", 1]])
    assert not plain["is_launched"]


def test_the_leaderboard_is_that_of_the_table(folder):
    about = Asked(folder).json("sweep", name="sweeps/rates")
    board = about["leaderboard"]
    first = [column["heading"] for column in board["columns"]][:3]
    assert first == ["val/loss_full", "seeds", "lr"]
    runs = runs_frame(folder / "sweeps" / "rates")
    losses = runs[runs.counted].groupby("setting")["val/loss_full"].agg(["mean", "std"])
    shown = board["columns"][0]
    np.testing.assert_allclose(shown["values"], losses, rtol=0, atol=1e-12)
    assert shown["cells"] == [f"{mean:.4f} ± {std:.4f}" for mean, std in losses.to_numpy()]
    assert board["columns"][2]["title"] == "optimizer.lr"
    of_best = [job["run"] for job in about["jobs"] if job["setting"] == board["settings"][0]]
    assert of_best == [f"sweeps/rates/{path.name}" for path in _runs(folder)[3:]]
    assert about["sections"][0]["title"].startswith("val/loss_full, compared with")
    figures = Asked(folder).json("figures", name="sweeps/rates")
    assert {"loss-by-optimizer.lr", "curves"} <= figures.keys()


def test_a_baseline_is_chosen_by_its_name(folder):
    for seed in (1, 2):
        swept = {"optimizer.lr": 0.01, "name": "a, b=" + "c" * 90, "seed": seed}
        made(folder / "sweeps" / "rates", swept, 3.0 + 0.01 * seed)
    asked = Asked(folder)
    first = asked.json("sweep", name="sweeps/rates")
    figures = {json.dumps(asked.json("figures", name="sweeps/rates"))}
    for name in first["leaderboard"]["names"][1:]:
        about = asked.json("sweep", name="sweeps/rates", baseline=name)
        assert about["sections"][0]["title"].endswith(f"compared with {name}")
        assert about["remarks"] == []
        figures.add(json.dumps(asked.json("figures", name="sweeps/rates", baseline=name)))
    assert len(figures) == 3
    for nonsense in ("optimizer.lr=7", "<b>=1", "=", "x" * 9000):
        about = asked.json("sweep", name="sweeps/rates", baseline=nonsense)
        assert about["remarks"][0].startswith("no setting is called")
        assert about["sections"] == first["sections"]


def test_differences_are_those_of_runs_csv(folder):
    """Recomputed by pandas and scipy alone."""
    asked = {"name": "sweeps/rates", "at": "15steps", "to": "2.6"}
    about = Asked(folder).json("sweep", **asked)
    runs = runs_frame(folder / "sweeps" / "rates")
    by_seed = runs.pivot(index="seed", columns="setting", values="val/loss_full")
    difference = by_seed[2] - by_seed[1]
    n, half = len(difference), scipy.stats.t.ppf(0.975, len(difference) - 1)
    spread = half * difference.std() / math.sqrt(n)
    columns = {column["heading"]: column for column in about["sections"][0]["columns"]}
    shown = {name: column["values"][1] for name, column in columns.items() if "values" in column}
    near = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_allclose(shown["difference"], difference.mean(), **near)
    interval = [difference.mean() - spread, difference.mean() + spread]
    np.testing.assert_allclose(shown["95 %"], interval, **near)
    np.testing.assert_allclose(
        shown["val/loss_full"], [by_seed[2].mean(), by_seed[2].std()], **near
    )
    p = scipy.stats.ttest_rel(by_seed[2], by_seed[1]).pvalue
    np.testing.assert_allclose(shown["p"], p, **near)
    titles = [section["title"].partition(",")[0] for section in about["sections"]]
    assert titles[1:] == [
        "val/loss at 15 steps",
        "steps to val/loss 2.6",
        "seconds to val/loss 2.6",
    ]
    at_15 = about["sections"][1]["columns"][1]["values"]
    np.testing.assert_allclose(np.array(at_15)[:, 0], [(3.0 + 2.4) / 2, (3.0 + 2.5) / 2], **near)
    figures = Asked(folder).json("figures", **asked)
    assert [name for name in figures if "15" in name] == ["difference-val-loss-at-15-steps"]


def test_what_cannot_be_asked_is_a_line_that_says_what_can(folder):
    asked = Asked(folder)
    first = asked.json("sweep", name="sweeps/rates")
    about = asked.json("sweep", name="sweeps/rates", at="soon, 10steps,,<b>", to="low,nan,2.6,1_0")
    assert about["remarks"] == [
        "at soon: a number and its unit, 30s, 1000steps, 2e6tokens or 1e12flops",
        "at <b>: a number and its unit, 30s, 1000steps, 2e6tokens or 1e12flops",
        *(f"to {text}: a loss, such as 1.88" for text in ("low", "nan", "1_0")),
    ]
    assert len(about["sections"]) > len(first["sections"])
    assert asked.json("sweep", name="sweeps/rates", fit="law")["remarks"] == [
        "no run is done that has parameters and a finite loss"
    ]


def test_a_race_stands_behind_the_leaderboard_as_soon_as_it_is_there(folder):
    asked, sweep = Asked(folder), folder / "sweeps" / "rates"
    before = asked.json("sweep", name="sweeps/rates")["sections"]
    rows: Any = [{"setting": HOSTILE, "seeds": 3, "loss": 2.4}]
    raced = Raced(rows, n_seeds=5, n_runs=3, fresh=[], losses=[], has_winner=True, least=None)
    raced.write(sweep)
    asked.look()
    race, *others = asked.json("sweep", name="sweeps/rates")["sections"]
    assert others == before
    assert race["title"] == "the race"
    assert race["columns"][0]["cells"][0].startswith("<script>alert(1)</script> ")
    assert "3 of 5 runs were needed (60%)" in race["notes"]
    (sweep / RACE).write_text('{"rows": [{"setting": 1}]}')
    asked.look()
    assert asked.json("sweep", name="sweeps/rates")["sections"] == before


def test_a_law_is_fitted_beside_the_answers(tmp_path):
    for width in (16, 32, 64, 128):
        for steps in (100, 300, 900):
            n, tokens = 48 * width**2, 768 * steps
            swept = {"model.n_embd": width, "trainer.max_steps": steps}
            facts = {"parameters": n, "parameters_inside": n, "tokens": tokens, "step": steps}
            loss = 1.3 + 30 / n**0.4 + 60 / tokens**0.38
            made(tmp_path / "scaling", swept, loss, **facts)
    asked = Asked(tmp_path)
    assert asked.json("sweep", name="scaling")["law"] == "possible"
    assert asked.json("sweep", name="scaling", fit="law")["law"] == "fitting"
    deadline = time.monotonic() + 60
    while (about := asked.json("sweep", name="scaling", fit="law"))["law"] == "fitting":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "L(N, D) = E + A / N^alpha + B / D^beta" in [s["title"] for s in about["sections"]]
    figures = asked.json("figures", name="scaling", fit="law")
    assert {"scaling-by-compute", "scaling-by-size"} <= figures.keys()


def test_of_many_jobs_a_page_is_sent(folder, monkeypatch):
    monkeypatch.setattr(answers, "MOST_JOBS", 4)
    monkeypatch.setattr(answers, "PAGE", 2)
    made(folder / "sweeps" / "rates", {"optimizer.lr": 9.0, "seed": 1}, None, "failed", error="no")
    asked = Asked(folder)
    about = asked.json("sweep", name="sweeps/rates")
    assert (len(about["jobs"]), about["n_jobs"], about["is_partial"]) == (4, 7, True)
    assert about["jobs"][0]["status"] == "failed"
    assert about["leaderboard"]["n_runs"] == [3, 3, 1]
    seen: list[str] = []
    for page in ("1", "2", "3", "4"):
        some = asked.json("jobs", name="sweeps/rates", page=page)
        seen += [job["name"] for job in some["jobs"]]
        assert (some["pages"], some["n_jobs"]) == (4, 7)
    assert sorted(seen) == sorted(path.name for path in _runs(folder))
    assert asked.json("jobs", name="sweeps/rates", page="9")["jobs"] == some["jobs"]
    for nonsense in ("-1", "0", "x", "²", "1e9"):
        assert asked.json("jobs", name="sweeps/rates", page=nonsense)["page"] == 1
    of_best = asked.json("jobs", name="sweeps/rates", setting="1")
    assert {job["setting"] for job in of_best["jobs"]} == {1}
    assert of_best["n_jobs"] == 3


def test_one_run_says_what_differs_and_how_to_go_on(folder):
    path = made(
        folder / "one", None, None, "interrupted", config={"optimizer.lr": 0.5}, step=40,
        choices={"model": "bigram"},
    )  # fmt: skip
    (path / "sample.txt").write_text(HOSTILE)
    (path / "train.log").write_text("a first line\n" * 2000 + "the last line\n")
    about = Asked(folder).json("run", name=f"one/{path.name}")
    assert about["status"] == "interrupted"
    rows = {key: (value, default) for key, value, default in about["changed"]["rows"]}
    assert rows["optimizer.lr"] == ("0.5", "0.001")
    assert "model._target_" not in rows
    assert about["sample"] == HOSTILE
    assert about["log"].endswith("the last line\n")
    assert len(about["log"]) < 20_000
    commands = dict(about["commands"])
    assert list(commands) == ["go on", "evaluate", "sample", "export"]
    assert f"run={path}" in commands["go on"]


def test_an_unknown_choice_leaves_what_was_swept(folder):
    path = made(folder / "one", {"optimizer.lr": 0.5}, choices={"model": "nowhere"})
    changed = Asked(folder).json("run", name=f"one/{path.name}")["changed"]
    assert changed["rows"] == [["optimizer.lr", "0.5", None]]


def test_a_name_leads_nowhere_but_to_what_was_seen(folder, tmp_path):
    asked = Asked(folder)
    private = next((tmp_path / "private").iterdir())
    for name in (
        *("../private", f"../private/{private.name}", str(private), f"{private}/run.json"),
        *("sweeps/rates/../../../private", "sweeps", "", ".", "/", "\0", "x" * 9000),
    ):
        for address in ("sweep", "figures", "run"):
            assert asked.get(address, name=name).status_code == 404, (address, name)
    for address in ("../../../etc/passwd", "frontend/index.js", "plugin.py", "index.js/..", "x.js"):
        assert asked.get(address).status_code == 404


@pytest.mark.skipif(os.name == "nt", reason="links want a privilege there")
def test_links_are_not_followed_out_of_the_folder(folder, tmp_path):
    private = next((tmp_path / "private").iterdir())
    (folder / "linked").symlink_to(tmp_path / "private")
    (folder / "sweeps" / "rates" / "linked").symlink_to(private)
    half = folder / "half"
    half.mkdir()
    (half / "run.json").symlink_to(private / "run.json")
    own = made(folder / "own", {"seed": 1})
    secret = tmp_path / "secret.txt"
    secret.write_text("nobody's business")
    for name in ("sample.txt", "train.log", "metrics.csv"):
        (own / name).unlink(missing_ok=True)
        (own / name).symlink_to(secret)
    asked = Asked(folder)
    assert {one["sweep"] for one in asked.json("sweeps")["sweeps"]} == {".", "own", "sweeps/rates"}
    assert asked.json("sweep", name="sweeps/rates")["counts"] == [["done", 6]]
    (linked,) = asked.json("sweep", name=".")["jobs"]
    assert linked["status"] == "unreadable"
    assert "leads out of" in linked["error"]
    answer = asked.get("run", name=f"own/{own.name}")
    assert "nobody's business" not in answer.text
    assert answer.status_code == 200


def test_a_damaged_run_is_a_row_that_says_so(folder):
    sweep = folder / "sweeps" / "rates"
    for content in ("{", "[]", "", '{"status": 3, "step": "many", "metrics": [], "seconds": NaN}'):
        made(sweep, {"seed": 9}).joinpath("run.json").write_text(content)
    made(sweep, {"optimizer.lr": HOSTILE}, None, "failed", error=HOSTILE, started=[1], best=7)
    made(sweep, {"seed": {"a": [1]}}, 2.0, versions=3, choices={"../x": "/etc"})
    (made(sweep, {"seed": 8}) / "config.yaml").write_text("{")
    asked = Asked(folder)
    about = asked.json("sweep", name="sweeps/rates")
    bad = [job for job in about["jobs"] if job["status"] == "unreadable"]
    assert len(bad) == 3
    assert all("run.json" in job["error"] for job in bad)
    assert len(about["jobs"]) == 13
    assert all(len(job["error"]) < 2500 for job in about["jobs"])
    asked.json("figures", name="sweeps/rates")
    for job in about["jobs"]:
        asked.json("run", name=job["run"])


def test_nothing_readable_is_still_a_sweep(folder):
    made(folder / "bad", None).joinpath("run.json").write_text("{")
    asked = Asked(folder)
    assert asked.json("sweep", name="bad")["leaderboard"] is None
    assert asked.json("figures", name="bad") == {}


def test_a_run_that_vanishes_is_missed(folder):
    asked = Asked(folder)
    assert asked.json("sweep", name="sweeps/rates")["counts"] == [["done", 6]]
    gone = _runs(folder)[0]
    shutil.rmtree(gone)
    asked.look()
    (job,) = [j for j in asked.json("sweep", name="sweeps/rates")["jobs"] if j.get("error")]
    assert (job["name"], job["error"]) == (gone.name, "it was moved or deleted")
    assert asked.json("run", name=f"sweeps/rates/{gone.name}")["status"] == "unreadable"
    shutil.rmtree(folder / "sweeps")
    asked.look()
    assert asked.get("sweep", name="sweeps/rates").status_code == 404


def test_a_job_that_was_refused_says_why(folder):
    journal = Journal.create(folder / "sweeps" / "rates", LaunchPlan.of(12, "basic"))
    journal.add(Event(0, "failed", 1.0, error=HOSTILE))
    journal.add(Event(1, "done", 1.0, run="somewhere"))
    with journal.path.open("a") as file:
        file.write('{"job": [], "status"')  # half a line
    about = Asked(folder).json("sweep", name="sweeps/rates")
    assert about["counts"] == [["done", 7], ["failed", 1], ["waiting", 10]]
    errors = [job["error"] for job in about["jobs"] if job["status"] == "failed"]
    assert errors[0].startswith("<script>")
    journal.close()  # who launched is gone
    about = Asked(folder).json("sweep", name="sweeps/rates")
    assert about["counts"][-1] == ["not begun", 10]


def test_a_run_that_is_paused_is_a_row_like_any_other(folder):
    swept = {"optimizer.lr": 0.1, "seed": 9}
    path = made(folder / "sweeps" / "rates", swept, None, "paused", step=50)
    asked = Asked(folder)
    about = asked.json("sweep", name="sweeps/rates")
    assert about["counts"] == [["done", 6], ["paused", 1]]
    (job,) = [job for job in about["jobs"] if job["status"] == "paused"]
    assert job["step"] == 50
    assert job["error"].startswith("paused at step 50")
    run = asked.json("run", name=f"sweeps/rates/{path.name}")
    assert run["commands"][0][0] == "go on"


def test_what_has_not_changed_is_not_sent_again(folder):
    asked = Asked(folder)
    for address in ("sweeps", "sweep", "figures", "index.js"):
        tag = asked.get(address, name="sweeps/rates").headers["ETag"]
        assert asked.get(address, name="sweeps/rates", etag=tag).status_code == 304
    made(folder / "sweeps" / "rates", {"optimizer.lr": 0.2, "seed": 1}, 2.0)
    asked.look()
    answer = asked.get("sweep", name="sweeps/rates", etag=tag)
    assert answer.status_code == 200
    assert json.loads(answer.data)["counts"] == [["done", 7]]


def test_runs_are_read_again_only_where_their_files_changed(folder, monkeypatch):
    asked = Asked(folder)
    asked.json("sweeps")
    read = []
    monkeypatch.setattr(scan, "read_run", lambda path: read.append(path) or original(path))
    asked.look()
    assert read == []
    path = _runs(folder)[2]
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(record | {"step": 101}))
    asked.look()
    assert read == [path]


original = scan.read_run


def test_a_run_is_running_while_a_process_trains_in_it(folder):
    path = made(folder / "one", None, None, "running")
    asked = Asked(folder)
    for _ in range(2):
        asked.look()
        assert asked.json("run", name=f"one/{path.name}")["status"] == "killed"
        with RunDirectory(path).locked():
            asked.look()
            assert asked.json("run", name=f"one/{path.name}")["status"] == "running"


def test_tensorboard_serves_it_with_a_prefix(folder, caplog):
    context = TBContext(logdir=str(folder), flags=SimpleNamespace(bind_all=False, host=None))
    given = BoardLoader(scan.Scan(folder)).load(TBContext(logdir="/none"))
    for plugin in (SweepsPlugin(context), given):
        client = Client(TensorBoardWSGI([plugin], path_prefix="/lab"))
        listing = client.get("/lab/data/plugins_listing").json["lmlab"]
        assert listing["enabled"]
        assert listing["tab_name"] == "Sweeps"
        module = listing["loading_mechanism"]["module_path"]
        answer = client.get(module, headers={"Host": "localhost"})
        assert answer.status_code == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert client.get("/lab/data/plugin_entry.html?name=lmlab").status_code == 200
    assert "In 3.0" not in caplog.text  # of the security validator


def test_a_single_run_needs_no_tab(tmp_path):
    made(tmp_path, None)
    assert not Asked(tmp_path).board.is_active()
    made(tmp_path, None)
    assert Asked(tmp_path).board.is_active()


@pytest.mark.parametrize("logdir", [None, ""])
def test_without_one_log_folder_nothing_is_served(folder, monkeypatch, logdir):
    monkeypatch.chdir(folder)
    plugin = SweepsPlugin(TBContext(logdir=logdir))
    client = Client(TensorBoardWSGI([plugin]))
    assert not client.get("/data/plugins_listing").json["lmlab"]["enabled"]
    answer = client.get("/data/plugin/lmlab/sweeps", headers={"Host": "localhost"})
    assert answer.status_code == 404


def test_a_folder_that_appears_later_has_a_tab_then(tmp_path):
    plugin = SweepsPlugin(TBContext(logdir=str(tmp_path / "later")))
    assert not plugin.is_active()
    for _ in range(2):
        made(tmp_path / "later", None)
    plugin._made()._scan.look()  # as its thread does
    assert plugin.is_active()


def _runs(folder: Path) -> list[Path]:
    return sorted((folder / "sweeps" / "rates").glob("job-*"))
