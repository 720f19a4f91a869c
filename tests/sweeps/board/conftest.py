"""The tab's own pages are to make no complaint at all."""

from collections.abc import Iterator

import pytest
from browsers import watched_page
from playwright.sync_api import BrowserContext, Page


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    with watched_page(browser, "warning") as page:
        yield page
