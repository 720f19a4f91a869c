"""report.html: the tab's page of one sweep in one file."""

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from browsers import opened, watched_page
from playwright.sync_api import BrowserContext, expect
from sweeps.made import made

from lmlab.sweeps.board import page as pages
from lmlab.sweeps.reporting import report

HOSTILE = (
    "</script><script>document.title = 'x'</script> & <img src=x onerror='document.title=1'>\n"
)


class Tags(HTMLParser):
    """The tags of a page, what is in its scripts and what it would load."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str | None] = []
        self.scripts: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts.append(data)


def answers(path: Path) -> Any:
    return json.loads(Tags(path).scripts[0], parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whatever may be hostile in it is."""
    folder = tmp_path_factory.mktemp("sweeps") / "rates"
    for lr, loss in ((0.1, 2.5), (0.01, 2.4)):
        for seed in (1, 2, 3):
            swept = {"optimizer.lr": lr, "name": HOSTILE, "seed": seed}
            path = made(folder, swept, loss + 0.01 * seed, curve={10: 3.0, 20: loss})
            (path / "sample.txt").write_text(HOSTILE + "\u202eright to left" + "x" * 5000)
    made(folder, {"optimizer.lr": 9.0, HOSTILE: HOSTILE, "seed": 1}, None, "failed", error=HOSTILE)
    overrides = {"task": ["sweep=ladder", f"name={HOSTILE}"], "hydra": ["hydra.mode=MULTIRUN"]}
    choices = {"choices": {"sweep": "ladder"}}
    about = {"hydra": {"overrides": overrides, "runtime": choices}}
    (folder / "multirun.yaml").write_text(yaml.safe_dump(about))
    report(folder)
    return folder


def test_it_holds_everything_and_loads_nothing(sweep):
    page, inside = Tags(sweep / "report.html"), answers(sweep / "report.html")
    about = inside["sweep"]["rates"]
    assert about["question"].startswith("Which idea brings how much?")
    assert about["leaderboard"]["columns"][0]["cells"][0] == "2.4200 ± 0.0100"
    assert any("compared with" in section["title"] for section in about["sections"])
    assert "-m sweep=ladder 'name=</script>" in dict(about["commands"])["train again"]
    assert {job["status"] for job in about["jobs"]} == {"done", "failed"}
    assert inside["run"].keys() == {job["run"] for job in about["jobs"]}
    samples = [run["sample"] for run in inside["run"].values()]
    assert sum(sample.startswith(HOSTILE) for sample in samples) == 6
    names = {path.stem for path in sweep.glob("plots/*.png")}
    assert names == {path.stem for path in sweep.glob("plots/*.svg")}
    assert inside["figures"]["rates"].keys() == names
    assert page.sources == []
    assert page.tags.count("script") == 3  # the answers, what draws figures, the page
    assert "img" not in page.tags
    assert (sweep / "report.html").stat().st_size < 1.5e6


def test_many_runs_have_no_page_of_their_own(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pages, "MOST_OF_RUNS", 25_000)
    folder = shutil.copytree(sweep, tmp_path / "rates")
    report(folder, plots=False)
    inside = answers(folder / "report.html")
    jobs = inside["sweep"]["rates"]["jobs"]
    with_a_page = [job["setting"] for job in jobs if job["run"] is not None]
    assert 0 < len(with_a_page) == len(inside["run"]) < 7
    assert set(with_a_page) == {1}  # the best first


def test_what_is_left_of_a_damaged_sweep_is_reported(tmp_path, capsys):
    made(tmp_path, {"seed": 1}, 2.0, versions="none", processor=None)
    made(tmp_path, {"seed": 2}).joinpath("run.json").write_text("{")
    for content in (
        *("", "hydra: 3", "hydra: {overrides: {task: 7}}", "{", "hydra: {runtime: []}"),
        "hydra: {runtime: {choices: {sweep: ../train}}}",
    ):
        (tmp_path / "multirun.yaml").write_text(content)
        report(tmp_path, plots=False)
        (about,) = answers(tmp_path / "report.html")["sweep"].values()
        assert about["leaderboard"]["columns"][0]["cells"] == ["2.0000"]
        assert about["question"] == ""
        assert [job["status"] for job in about["jobs"]] == ["done", "unreadable"]


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    with opened() as browser:
        yield browser


@pytest.mark.parametrize("look", ["light", "dark"])
def test_a_reader_without_a_network_sees_it(browser, sweep, tmp_path, look):
    path = shutil.copy(sweep / "report.html", tmp_path / "sent.html")
    with watched_page(browser, "warning") as page:
        page.emulate_media(color_scheme=look)
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(Path(path).as_uri())
        board = page.get_by_role("region", name="leaderboard")
        expect(board.locator("tbody tr")).to_have_count(3)
        expect(board.locator("tbody tr").first).to_contain_text("2.4200 ± 0.0100")
        figures = page.locator(".figure")
        expect(page.locator(".figure svg")).to_have_count(figures.count())
        expect(page.locator(".problem")).to_have_count(0)
        is_dark = look == "dark"
        expect(page.locator("body")).to_have_css(
            "color", "rgb(238, 238, 238)" if is_dark else "rgb(33, 33, 33)"
        )
        board.get_by_role("button", name="runs of").first.click()
        page.get_by_role("region", name="runs of the setting").get_by_role("link").first.click()
        expect(page.locator("pre").first).to_contain_text("<img src=x onerror='document.title=1'>")
        page.get_by_role("link", name="the sweep").click()
        expect(board).to_be_visible()
        assert page.title() == "rates"
        assert page.locator("img").count() == 0
        assert requests == [Path(path).as_uri()]
        for choice in ("sweep=constructor", "run=__proto__"):
            page.goto(f"{Path(path).as_uri()}#lmlab&p.lmlab.{choice}")
            expect(page.locator(".problem")).to_have_text("this is not in the report")
