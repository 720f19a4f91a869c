"""Runs side by side, and one by one, in a browser."""

import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import FrameLocator, Page, expect
from sweeps.board.test_runs import showed
from sweeps.made import made

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">\u202e\x00\n' + "long " * 1000


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweeps" / "rates"
    (folder / ".launches").mkdir(parents=True)
    for lr, loss in ((0.1, 2.5), (0.01, 2.4)):
        for seed in (1, 2):
            curve = {10: 3.0, 20: loss}
            run = made(folder, {"optimizer.lr": lr, "seed": seed}, loss + seed / 100, curve=curve)
            showed(run, 10, 20)
    return folder


def at(link: str, **choices: str) -> str:
    return f"{link}#lmlab" + "".join(
        f"&p.lmlab.{k}={quote(v, safe='')}" for k, v in choices.items()
    )


def tab_of(page: Page) -> FrameLocator:
    return page.frame_locator("iframe")


def name_of(run: Path) -> str:
    return f"sweeps/rates/{run.name}"


def test_what_is_ticked_is_seen_side_by_side(page: Page, link: str, sweep: Path):
    page.goto(at(link, sweep="sweeps/rates"))
    tab = tab_of(page)
    board = tab.get_by_role("region", name="leaderboard")
    board.get_by_role("checkbox", name="side by side: optimizer.lr=0.01").check()
    expect(tab.get_by_text("tick another")).to_be_visible()
    tab.get_by_text("all 4 jobs").click()
    first = sorted(sweep.glob("job-*"))[0]
    box = tab.get_by_role("region", name="jobs", exact=True).get_by_role("checkbox").first
    box.focus()
    page.keyboard.press("Space")  # it keeps the focus, and the box that was ticked before its mark
    expect(box).to_be_focused()
    expect(box).to_be_checked()
    tab.get_by_role("link", name="side by side").click()

    heads = tab.get_by_role("region", name="keys in which they differ").locator("th")
    expect(heads).to_have_text(["key", "optimizer.lr=0.01", first.name])
    row = tab.get_by_role("row", name="optimizer.lr 0.01 0.1")
    expect(row).to_be_visible()
    expect(tab.locator(".figure svg")).to_be_visible()
    expect(tab.locator("pre")).to_have_count(2)
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    expect(row).to_be_visible()
    tab.get_by_role("button", name=f"without {name_of(first)}").click()
    expect(row).to_have_count(0)
    page.go_back()  # from the page of one to about:blank


def test_samples_and_pictures_are_of_the_same_step(page: Page, link: str, sweep: Path):
    runs = sorted(sweep.glob("job-*"))
    (runs[0] / "sample.txt").write_text(HOSTILE)
    words = [name_of(runs[0]), name_of(runs[2]), f"~{name_of(runs[0])}"]
    page.goto(at(link, side=json.dumps(words)))
    tab = tab_of(page)
    expect(tab.locator("output")).to_have_text("step 20")
    pictures = tab.locator("figure img")
    expect(pictures).to_have_count(3)
    height = "images => images.every(image => image.complete && image.naturalHeight === {})"
    page.wait_for_timeout(300)
    assert pictures.evaluate_all(height.format(21))
    slider = tab.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(tab.locator("pre").last).to_contain_text("at 10")
    expect(slider).to_be_focused()
    page.wait_for_timeout(300)
    assert pictures.evaluate_all(height.format(11))
    assert "p.lmlab.step=10" in page.url
    tab.get_by_role("button", name="next step").click()
    expect(tab.locator("pre").last).to_contain_text("at 20")
    assert tab.locator("figure script").count() == 0


def test_one_run_shows_what_it_wrote_and_is_as_it_is_now(page: Page, link: str, sweep: Path):
    run = sorted(sweep.glob("job-*"))[0]
    child = {"run": str(run), "step": 90, "fingerprint": "x"}
    made(sweep.parent / "long", None, 2.2, parent=child, choices={"model": "bigram"})
    page.goto(at(link, run=name_of(run)))
    tab = tab_of(page)
    expect(tab.locator(".figure svg")).to_be_visible()
    expect(tab.locator("figure img")).to_have_count(1)
    expect(tab.get_by_text("others that began from it")).to_be_visible(timeout=8000)
    tab.locator("summary", has_text="files").click()
    expect(tab.get_by_role("region", name="files")).to_contain_text("metrics.csv")

    record = json.loads((run / "run.json").read_text())
    record |= {"status": "failed", "error": HOSTILE}
    (run / "train.log").write_text(HOSTILE)
    (run / "run.json").write_text(json.dumps(record))
    expect(tab.locator(".problem")).to_contain_text("<script>alert(1)</script>", timeout=8000)
    expect(tab.locator("details[data-fold=log] pre")).to_contain_text("onerror")
    again = tab.locator("dd", has_text="train.py").first
    expect(again).to_contain_text(run.name)
    assert tab.locator("main script, main .problem img").count() == 0

    frame = page.frames[-1]  # where there is no clipboard, it is done as by hand
    frame.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    again.get_by_role("button").click()
    expect(again.get_by_role("button")).to_have_text("copied")
    assert f"run={run}" in frame.evaluate("getSelection().toString()")


@pytest.mark.skipif(os.name == "nt", reason="there names are text")
def test_names_may_be_anything_that_a_folder_can_be_called(page: Page, link: str, sweep: Path):
    run = made(sweep.parent / "odd", None, 2.2, choices={"model": "bigram"})
    names = ("<script>alert(1)<script>", "a\nb\u202ec", "&p.lmlab.run=x#%2e%2e", "x..%2f")
    for name in names:
        made(sweep.parent / "odd", None, 2.3).rename(run.with_name(name))
    page.goto(at(link, sweep="sweeps/odd"))
    tab = tab_of(page)
    links = tab.get_by_role("region", name="jobs", exact=True).get_by_role("link")
    for i in range(5):
        tab.get_by_text("all 5 jobs").click()
        expect(links).to_have_count(5)
        words = " ".join(links.nth(i).inner_text().split())
        links.nth(i).click()
        expect(tab.locator("h1")).to_contain_text(words)
        expect(tab.locator("dl.commands")).to_be_visible()
        page.go_back()


def test_by_keyboard_alone(page: Page, link: str, sweep: Path):
    """From the list to a sorted leaderboard, two boxes, and the page of both."""
    page.goto(link)
    tab = tab_of(page)
    expect(tab.get_by_role("link", name="sweeps/rates")).to_be_visible()
    walk_to(page, "sweeps/rates", "Enter")
    expect(tab.locator(".figure svg").first).to_be_visible()
    walk_to(page, "lr", "Enter")
    sorted_by = tab.get_by_role("region", name="leaderboard").locator("th[aria-sort]")
    expect(sorted_by).to_contain_text("lr")
    walk_to(page, "side by side: optimizer.lr=0.01", "Space")
    walk_to(page, "side by side: optimizer.lr=0.1", "Space")
    walk_to(page, "side by side", "Enter")
    expect(tab.get_by_role("region", name="keys in which they differ")).to_be_visible()
    expect(tab.locator("figure img")).to_have_count(2)
    walk_to(page, "step", "ArrowLeft")
    expect(tab.locator("output")).to_have_text("step 10")


def walk_to(page: Page, name: str, key: str) -> None:
    """Tab until what has the focus, in the frame, is called so; then press a key."""
    called = "node => node.ariaLabel ?? node.textContent.trim()"
    for _ in range(120):
        page.keyboard.press("Tab")
        frame = page.frames[-1]
        focused = frame.evaluate(f"document.hasFocus() ? ({called})(document.activeElement) : ''")
        if focused == name:
            page.keyboard.press(key)
            return
    raise AssertionError(f"{name} is not reached by Tab")


@pytest.mark.slow
def test_what_is_selected_is_not_taken_away_by_news(page: Page, link: str, sweep: Path):
    run = sorted(sweep.glob("job-*"))[0]
    page.goto(at(link, run=name_of(run)))
    tab = tab_of(page)
    expect(tab.locator(".figure svg")).to_be_visible()
    frame = page.frames[-1]
    frame.evaluate("getSelection().selectAllChildren(document.querySelector('code'))")
    words = frame.evaluate("getSelection().toString()")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"step": 77}))
    page.wait_for_timeout(3000)
    assert frame.evaluate("getSelection().toString()") == words
    frame.evaluate("getSelection().empty()")
    expect(tab.locator("dl.facts")).to_contain_text("77", timeout=8000)
