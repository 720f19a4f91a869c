"""The tab in a browser, while a sweep runs."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import FrameLocator, Page, expect
from sweeps.made import made

from lmlab.runs.directory import RunDirectory

HOSTILE = '<img src=x onerror="document.body.remove()"> & <b>bold</b>\n' + "long " * 300


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweeps" / "rates"
    (folder / ".launches").mkdir(parents=True)
    for lr, loss in ((0.1, 2.5), (0.01, 2.4)):
        for seed in (1, 2, 3):
            run(folder, lr, seed, loss)
    return folder


def run(folder: Path, lr: float, seed: int, loss: float) -> Path:
    curve = {10: 3.0, 20: loss}
    return made(folder, {"optimizer.lr": lr, "seed": seed}, loss + 0.01 * seed, curve=curve)


def row(tab: FrameLocator, name: str, of: str) -> list[str]:
    """The cells of the row of a table that begins with a text."""
    cells = tab.get_by_role("region", name=name, exact=True).locator("tbody tr", has_text=of).first
    return cells.locator("td").all_inner_texts()


def test_a_sweep_is_seen_while_it_runs(page: Page, link: str, sweep: Path):
    page.goto(link)  # it is the first tab
    tab = page.frame_locator("iframe")
    tab.get_by_role("link", name="sweeps/rates").click()
    board = tab.get_by_role("region", name="leaderboard")
    expect(board.locator("tbody tr")).to_have_count(2)
    expect(board.locator("tbody tr").first).to_contain_text("2.4200 ± 0.0100")
    expect(tab.locator(".figure svg").first).to_be_visible()
    assert "p.lmlab.sweep=sweeps%2Frates" in page.url

    going = run(sweep, 0.3, 1, 2.0)  # another job begins
    record = json.loads((going / "run.json").read_text())
    (going / "run.json").write_text(json.dumps(record | {"status": "running", "step": 40}))
    with RunDirectory(going).locked():
        running = tab.get_by_role("region", name="running")
        expect(running.locator("tbody tr")).to_have_count(1, timeout=8000)
        expect(running).to_contain_text("40 / 100")
    (going / "run.json").write_text(json.dumps(record))  # and is done
    expect(running).to_have_count(0, timeout=8000)
    expect(board.locator("tbody tr").first).to_contain_text("0.3")

    failed = made(sweep, {"optimizer.lr": 9.0, "seed": 1}, None, "failed", error=HOSTILE)
    (failed / "sample.txt").write_text(HOSTILE)
    wrong = tab.get_by_role("region", name="went wrong")
    expect(wrong).to_contain_text('<img src=x onerror="document.body.remove()">', timeout=8000)
    wrong.get_by_role("link").click()
    expect(tab.locator("pre").first).to_have_text(HOSTILE)
    assert tab.locator("img, b").count() == 0
    page.go_back()
    expect(board).to_be_visible()
    shutil.rmtree(failed)
    expect(wrong).to_contain_text("it was moved or deleted", timeout=8000)


def test_choices_are_in_the_address(page: Page, link: str, sweep: Path):
    page.goto(f"{link}#lmlab&p.lmlab.sweep=sweeps%2Frates")
    tab = page.frame_locator("iframe")
    board = tab.get_by_role("region", name="leaderboard")
    by_rate = board.get_by_role("button", name="lr", exact=True)
    by_rate.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # the button keeps the focus
    expect(board.locator("th[aria-sort=descending]")).to_contain_text("lr")
    board.get_by_role("button", name="runs of optimizer.lr=0.1").click()
    expect(tab.get_by_role("region", name="runs of the setting").locator("tbody tr")).to_have_count(
        3
    )
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    expect(tab.get_by_role("region", name="runs of the setting").locator("tbody tr")).to_have_count(
        3
    )
    expect(board.locator("th[aria-sort=descending]")).to_contain_text("lr")


def test_curves_and_differences_are_chosen_on_the_page(page: Page, link: str):
    page.goto(f"{link}#lmlab&p.lmlab.sweep=sweeps%2Frates")
    tab = page.frame_locator("iframe")
    for name in ("logarithmic across", "the single seeds"):
        tab.get_by_role("button", name=name).click()
        expect(tab.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
    at = tab.get_by_label("at", exact=True)
    at.fill("15steps, soon")
    at.press("Enter")
    heading = tab.get_by_role(
        "heading", name="val/loss at 15 steps, compared with optimizer.lr=0.01"
    )
    expect(heading).to_be_visible()
    expect(tab.locator(".problem")).to_have_text(
        "at soon: a number and its unit, 30s, 1000steps, 2e6tokens or 1e12flops"
    )
    tab.get_by_label("compare with").select_option("optimizer.lr=0.1")
    tab.get_by_role("button", name="compare", exact=True).click()
    expect(
        tab.get_by_role("heading", name="at 15 steps, compared with optimizer.lr=0.1")
    ).to_be_visible()
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    expect(at).to_have_value("15steps, soon")
    expect(tab.get_by_role("button", name="the single seeds")).to_have_attribute(
        "aria-pressed", "true"
    )
    lines = tab.locator(".figure svg .mark-line path")
    expect(lines.first).to_be_attached()
    assert lines.count() >= 2 + 6  # of settings, and of seeds


@pytest.mark.parametrize("width", [390, 1100])
def test_it_is_as_wide_as_the_screen_and_as_dark_as_tensorboard(page: Page, link: str, width: int):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{link}#lmlab&p.lmlab.sweep=sweeps%2Frates")
    tab = page.frame_locator("iframe")
    expect(tab.locator(".figure svg").first).to_be_visible()
    body = tab.locator("body")
    assert body.evaluate("body => body.scrollWidth") <= width
    for is_dark in (True, False):
        page.evaluate("isDark => document.body.classList.toggle('dark-mode', isDark)", is_dark)
        expect(body).to_have_class(re.compile("dark" if is_dark else "^$"))
        expect(body).to_have_css("color", "rgb(238, 238, 238)" if is_dark else "rgb(33, 33, 33)")


@pytest.mark.slow
def test_what_has_not_moved_costs_nothing(page: Page, link: str):
    answers: list[tuple[str, int]] = []
    page.on("response", lambda a: answers.append((a.url.rpartition("/")[2], a.status)))
    page.goto(f"{link}#lmlab&p.lmlab.sweep=sweeps%2Frates")
    expect(page.frame_locator("iframe").locator(".figure svg").first).to_be_visible()
    n = len(answers)
    page.wait_for_timeout(2600)
    polls = [status for name, status in answers[n:] if name.startswith("sweep?")]
    assert polls
    assert set(polls) == {304}
