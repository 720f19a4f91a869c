"""python scripts/screenshots.py outputs docs/images: a picture of each of TensorBoard's tabs.

Wants playwright (extra `dev`) and a chromium: apt-get install chromium, or $LMLAB_CHROMIUM.
"""

import argparse
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import FrameLocator, Page, TimeoutError, ViewportSize, sync_playwright

from lmlab.display.for_tensorboard.board import start
from lmlab.sweeps.board.plugin import BoardLoader
from lmlab.sweeps.board.scan import Scan

SIZE, TALL = ViewportSize(width=1720, height=1000), ViewportSize(width=1720, height=1750)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


def nothing(page: Page) -> None:
    """The tab as it opens."""


def parallel(page: Page) -> None:
    page.get_by_text("PARALLEL COORDINATES VIEW").click()
    page.locator("tf-hparams-parallel-coords-plot g.foreground path").first.wait_for()


def first_sweep(page: Page) -> None:
    inside: FrameLocator = page.frame_locator("iframe")
    inside.get_by_role("link").first.click()
    inside.get_by_role("button", name="runs of").first.click()
    inside.locator(".figure svg").first.wait_for()


def curves(page: Page) -> None:
    """By time, with the single seeds, at equal time and to a loss."""
    first_sweep(page)
    inside = page.frame_locator("iframe")
    inside.get_by_label("at", exact=True).fill("3s")
    inside.get_by_label("to val/loss").fill("2.8")
    inside.get_by_role("button", name="compare", exact=True).click()
    for name in ("by seconds", "logarithmic across", "the single seeds"):
        inside.get_by_role("button", name=name).click()
    inside.get_by_role("heading", name="seconds to").wait_for()
    inside.locator(".figure svg").nth(4).wait_for()
    inside.get_by_role("button", name="by seconds").evaluate("button => button.scrollIntoView()")


def one_run(page: Page) -> None:
    first_sweep(page)
    inside = page.frame_locator("iframe")
    inside.get_by_role("region", name="runs of the setting").get_by_role("link").first.click()
    inside.locator("figure img").first.wait_for()
    page.set_viewport_size(TALL)


def side_by_side(page: Page) -> None:
    first_sweep(page)
    inside = page.frame_locator("iframe")
    for model in ("gpt", "residual", "head"):
        inside.get_by_role("checkbox", name=f"side by side: model={model}", exact=True).check()
    inside.get_by_role("link", name="side by side").click()
    inside.locator("figure img").first.wait_for()
    page.set_viewport_size(TALL)


def labels(page: Page) -> None:
    inside: FrameLocator = page.frame_locator("iframe").frame_locator("iframe")
    inside.get_by_text("Points:").wait_for()
    inside.locator("#labels3DMode").click()


def unsmoothed(page: Page) -> None:
    box = page.locator("tf-smoothing-input input").last
    box.fill("0")
    box.press("Enter")


def full_size(page: Page) -> None:
    page.get_by_text("Show actual image size").click()


# Name of the picture, the page's address after the port, what to wait for, what to do then.
SHOTS: list[tuple[str, str, str, Callable[[Page], None]]] = [
    ("sweeps", "#lmlab", "iframe", first_sweep),
    ("curves", "#lmlab", "iframe", curves),
    ("one_run", "#lmlab", "iframe", one_run),
    ("side_by_side", "#lmlab", "iframe", side_by_side),
    (
        "losses",
        "?smoothing=0&tagFilter=loss&runFilter={runs}#timeseries",
        "scalar-card path",
        nothing,
    ),
    (
        "scalars",
        "#scalars&tagFilter=loss&_smoothingWeight=0&regexInput={runs}",
        "tf-scalar-card path",
        nothing,
    ),
    ("hparams", "#hparams", "vaadin-grid-cell-content", nothing),
    ("parallel", "#hparams", "vaadin-grid-cell-content", parallel),
    (
        "custom_scalars",
        "#custom_scalars&regexInput={runs}",
        "tf-custom-scalar-multi-line-chart-card",
        unsmoothed,
    ),
    (
        "attention",
        "#images&tagFilter=view/attention&regexInput={runs}",
        "tf-image-loader img",
        full_size,
    ),
    ("bigram", "#images&tagFilter=view/bigram&regexInput={runs}", "tf-image-loader img", full_size),
    (
        "averages",
        "#images&tagFilter=view/averages&regexInput={runs}",
        "tf-image-loader img",
        full_size,
    ),
    ("text", "#text&tagFilter=sample&regexInput={runs}", "tf-text-loader pre", nothing),
    ("config", "#text&tagFilter=setup&regexInput={runs}", "tf-text-loader pre", nothing),
    (
        "histograms",
        "#histograms&tagFilter=lm_head&regexInput={runs}",
        "vz-histogram-timeseries",
        nothing,
    ),
    ("projector", "#projector", "iframe", labels),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="folder of runs")
    parser.add_argument("pictures", type=Path, help="where the pictures go")
    parser.add_argument("--only", default="", help="names of pictures, with commas between")
    parser.add_argument("--filter", default="", help="a regular expression for the runs shown")
    asked = parser.parse_args()
    chromium = os.environ.get("LMLAB_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        sys.exit("error: no browser: apt-get install chromium, or name one in LMLAB_CHROMIUM")
    asked.pictures.mkdir(parents=True, exist_ok=True)
    link = start(asked.runs, first=BoardLoader(Scan(asked.runs))).partition("?")[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        context = browser.new_context(viewport=SIZE)
        for name, address, content, act in SHOTS:
            if asked.only and name not in asked.only.split(","):
                continue
            page = context.new_page()
            page.goto(link + address.format(runs=quote(asked.filter)))
            try:
                page.locator(content).first.wait_for(state="attached")
            except TimeoutError:
                print(f"{name}: these runs have nothing to show there")
                continue
            page.wait_for_load_state("networkidle")
            act(page)
            page.wait_for_timeout(2000)  # charts move into place
            save(page.screenshot(), asked.pictures / f"{name}.png")
            page.close()
        browser.close()


def save(png: bytes, path: Path) -> None:
    """With a palette: a third of the size."""
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
