"""The tab in a browser: its own pages are to make no complaint at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import watched_page
from playwright.sync_api import BrowserContext, Page

from lmlab.display.for_tensorboard.board import start
from lmlab.sweeps.board import scan
from lmlab.sweeps.board.plugin import BoardLoader


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    with watched_page(browser, "warning") as page:
        yield page


@pytest.fixture
def link(tmp_path: Path, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The lab's board on the test's folder of runs, which looks at it five times a second."""
    monkeypatch.setattr(scan, "SECONDS", 0.2)
    flags = "--load_fast=false", "--path_prefix=/lab"
    return start(tmp_path, *flags, first=BoardLoader(scan.Scan(tmp_path))).partition("?")[0]
