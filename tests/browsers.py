"""A real browser: Debian's chromium, driven by playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect, sync_playwright

CHROMIUM = os.environ.get("LMLAB_CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
# What TensorBoard's own pages say: the projector is loaded twice, and a font knows no path_prefix.
THEIRS = "Multiple instances of Three.js", "/font-roboto/"
expect.set_options(timeout=20_000)


@contextmanager
def opened() -> Iterator[BrowserContext]:
    """With one cache for all its pages."""
    if CHROMIUM is None:
        missing = (
            "NO BROWSER, SO NOBODY LOOKED AT TENSORBOARD'S PAGES: "
            "apt-get install chromium (or name one in LMLAB_CHROMIUM)"
        )
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_context(viewport={"width": 1600, "height": 1200})
        browser.close()


@contextmanager
def watched_page(browser: BrowserContext, *kinds: str) -> Iterator[Page]:
    """A page whose console holds no message of these kinds in the end, and no error."""
    page = browser.new_page()
    wrong: list[str] = []

    def listen(said: ConsoleMessage) -> None:
        if said.type in ("error", *kinds):
            wrong.append(f"{said.text} ({said.location['url']})")

    page.on("console", listen)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_default_timeout(20_000)
    yield page
    page.close()
    assert [text for text in wrong if not any(known in text for known in THEIRS)] == []
