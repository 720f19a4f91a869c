"""What a user does see, in a browser."""

import re
import shutil
from pathlib import Path

import pytest
from boards import Sweep
from playwright.sync_api import Page, expect

from lmlab.sweeps.reporting import report

CONTENT = {  # what a tab holds once it is there; the others have tests of their own
    "scalars": "tf-scalar-card",
    "distributions": "vz-distribution-chart",
    "histograms": "vz-histogram-timeseries",
    "projector": "iframe",
}


def at(link: str, tab: str) -> str:
    return link.partition("?")[0] + "#" + tab


@pytest.mark.parametrize(
    ("tab", "content"),
    [
        pytest.param(*item, marks=[pytest.mark.slow] * (item[0] in ("distributions", "histograms")))
        for item in CONTENT.items()
    ],
)
def test_each_tab_opens_and_shows_something(page: Page, link: str, tab: str, content: str):
    page.goto(at(link, tab))
    expect(page.locator(content).first).to_be_visible()
    if tab == "projector":
        inside = page.frame_locator("iframe").frame_locator("iframe")
        expect(inside.get_by_text("Points: 65")).to_be_visible()
    page.wait_for_load_state("networkidle")


def test_link_opens_on_sweeps_and_curves_are_not_smoothed(page: Page, link: str):
    page.goto(link)
    inside = page.frame_locator("iframe")
    expect(inside.get_by_role("heading", name="Sweeps", exact=True)).to_be_visible()
    page.get_by_role("tab", name="Time Series").click()
    titles = page.locator("scalar-card tb-truncated-path")
    expect(titles.first).to_be_visible()
    shown = [title.get_attribute("title") or "" for title in titles.all()]
    assert shown[0] == "train/loss"
    assert all("loss" in title for title in shown)
    expect(page.get_by_label("Smoothing", exact=True).and_(page.locator("input"))).to_have_value(
        "0"
    )


def test_hparams_table_has_every_run_with_its_loss(page: Page, link: str, sweep: Sweep):
    page.goto(at(link, "hparams"))
    cells = page.locator("vaadin-grid-cell-content")
    for name in sweep.runs:
        expect(cells.get_by_text(name, exact=True)).to_be_visible()
    said = [text for text in map(str.strip, cells.all_inner_texts()) if text]
    assert sum(text in sweep.runs for text in said) == len(sweep.runs)
    for name, run in sweep.runs.items():
        if "val/loss_full" in run.record["metrics"]:
            row = said[said.index(name) + 1 :]
            full = pytest.approx(run.record["metrics"]["val/loss_full"], abs=1e-3)
            assert full in [float(text) for text in row[:7] if re.fullmatch(r"[\d.]+", text)]


def test_parallel_coordinates_draw_every_run_that_has_what_is_ticked(
    page: Page, link: str, sweep: Sweep
):
    page.goto(at(link, "hparams"))
    page.get_by_text("PARALLEL COORDINATES VIEW").click()
    lines = page.locator("tf-hparams-parallel-coords-plot g.foreground path")
    expect(lines).to_have_count(len(sweep.runs) - 2)
    # The one that failed has no full pass to show; without that axis it is there too. So is the one
    # that counts, without those of what it does not have.
    for axis in ("val/loss_full", "lr", "parameters"):
        page.get_by_role("checkbox", name=axis, exact=True).click()
    expect(lines).to_have_count(len(sweep.runs))


def test_sizes_and_rates_have_a_logarithmic_scale_whatever_is_in_the_sweep(page: Page, link: str):
    page.goto(at(link, "hparams"))
    page.get_by_role("checkbox", name="n_embd", exact=True).click()
    page.get_by_text("PARALLEL COORDINATES VIEW").click()
    scales = page.locator("tf-hparams-parallel-coords-view paper-radio-group")
    scales.first.wait_for()
    log = page.locator("tf-hparams-parallel-coords-view paper-radio-button[name=LOG]")
    expect(log.first).to_be_visible()
    assert log.count() >= 9  # lr, n_embd, parameters, block_size, seed and the metrics
    expect(log.and_(page.locator("[disabled]"))).to_have_count(0)


def test_the_picture_of_a_bigram_is_no_wider_than_its_card(page: Page, link: str):
    page.set_viewport_size({"width": 1366, "height": 900})
    page.goto(at(link, "images&tagFilter=view/bigram"))
    page.get_by_text("Show actual image size").click()
    picture = page.locator("tf-image-loader img").first
    expect(picture).to_be_visible()
    card_width = page.locator("tf-image-loader").first.evaluate("card => card.clientWidth")
    assert 900 < picture.evaluate("img => img.naturalWidth") <= card_width


def test_custom_scalar_charts_draw_both_lines_of_a_run(page: Page, link: str):
    page.goto(at(link, "custom_scalars&regexInput=mixed/gpt$"))
    card = page.locator("tf-custom-scalar-multi-line-chart-card").first
    expect(card.get_by_text("train and val loss by step")).to_be_visible()
    expect(card.get_by_text("Matches (2)")).to_be_visible()
    card.locator("path.line[d^=M]").nth(1).wait_for(state="attached")
    drawn = card.locator("path.line").evaluate_all("paths => paths.map(p => p.getAttribute('d'))")
    assert len({line for line in drawn if line}) >= 2


def test_attention_picture_shows(page: Page, link: str):
    page.goto(at(link, "images"))
    picture = page.locator("tf-image-loader", has_text="mixed/gpt").first.locator("img")
    expect(picture).to_be_visible()
    assert picture.evaluate("async img => { await img.decode(); return img.naturalWidth; }") > 200


def test_hostile_sample_is_text_on_the_page(page: Page, link: str, sweep: Sweep):
    page.goto(at(link, "text&regexInput=hostile"))
    sample = page.locator("tf-text-loader", has_text="tag: sample").locator("pre").first
    expect(sample).to_be_visible()
    made = (sweep.runs["hostile"].path / "sample.txt").read_text(errors="replace")
    visible = [c for c in made if c.isprintable() and c != " "]
    assert [c for c in sample.inner_text() if c in visible] == visible


@pytest.mark.parametrize("width", [390, 1600])
def test_the_report_of_a_sweep_is_as_wide_as_the_screen(
    page: Page, sweep: Sweep, tmp_path: Path, width: int
):
    report(shutil.copytree(sweep.folder / "sweeps" / "mixed", tmp_path / "mixed"))
    page.set_viewport_size({"width": width, "height": 800})
    page.goto((tmp_path / "mixed" / "report.html").as_uri())
    expect(page.get_by_role("table").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figures = page.locator(".figure")
    assert figures.count() > 1
    expect(page.locator(".figure svg")).to_have_count(figures.count())
