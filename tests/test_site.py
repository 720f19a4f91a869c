"""The pages of docs/ as a site: each link leads somewhere, and nothing is fetched to read it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT

from lmlab.config.words.compose import options

DOCS = Path(sys.prefix) / "docs"  # what `make docs` installs


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if not DOCS.is_dir():
        pytest.skip("the site wants what `make docs` installs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(DOCS), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_every_page_is_there_and_no_link_leads_nowhere(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"index", "reference", "lecture"} <= {path.stem for path in site.glob("*.html")}


def test_nothing_comes_from_another_host(site):
    loaded = re.compile(r'<(?:script|img|link rel="stylesheet")[^>]+(?:src|href)="(?:https?:)?//')
    assert not [path for path in site.rglob("*.html") if loaded.search(path.read_text("utf-8"))]


def test_the_reference_has_every_option_and_what_keys_mean(site):
    text = re.sub(r"<[^>]+>", "", (site / "reference.html").read_text("utf-8"))
    for group in ("model", "optimizer", "corpus", "experiment"):
        for option in options([ROOT / "conf"], group):
            assert f"{group}={option}" in text
    assert "tokens that a window predicts, and the longest context" in text


def test_the_readme_is_short_and_its_pages_exist():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= 135
    for target in re.findall(r"\]\(([^)#]+)", readme):
        assert "://" in target or (ROOT / target).exists(), target
