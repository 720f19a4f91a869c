"""report.html: the whole report in one file."""

import json
import re
from html.parser import HTMLParser

import yaml
from sweeps.made import made

from lmlab.sweeps.report.report import report

HOSTILE = "<script>alert('x')</script> & \"quotes\""


class Page(HTMLParser):
    """The tags, the texts and what the page would load."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.sources: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        is_script = self.cdata_elem == "script"
        (self.scripts if is_script else self.texts).append(data)


def test_it_holds_everything_and_loads_nothing(tmp_path, capsys):
    for lr, loss in ((0.1, 2.5), (0.01, 2.4)):
        for seed in (1, 2, 3):
            swept = {"optimizer.lr": lr, "seed": seed}
            made(tmp_path, swept, loss + 0.01 * seed, curve={10: 3.0, 20: loss})
    made(tmp_path, {"optimizer.lr": 9.0, "seed": 1}, None, "failed", error=HOSTILE)
    overrides = {"task": ["sweep=ladder", f"name={HOSTILE}"], "hydra": ["hydra.mode=MULTIRUN"]}
    choices = {"choices": {"sweep": "ladder"}}
    about = {"hydra": {"overrides": overrides, "runtime": choices}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(about))
    report(tmp_path)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    text = "".join(page.texts)
    assert "Which idea brings how much?" in text  # what conf/sweep/ladder.yaml begins with
    assert "2.4200 ± 0.0100" in text
    assert "compared with optimizer.lr=0.01" in text
    assert HOSTILE in text
    assert re.search(r"-m sweep=ladder 'name=<script>", text)
    assert page.tags.count("table") == 2
    assert page.sources == []
    assert page.tags.count("script") == 3  # the figures, what draws them, and where
    names = {path.stem for path in tmp_path.glob("plots/*.png")}
    assert names == {path.stem for path in tmp_path.glob("plots/*.svg")}
    assert json.loads(page.scripts[0]).keys() == names
    assert (tmp_path / "report.html").stat().st_size < 1.5e6


def test_what_is_left_of_a_damaged_sweep_is_reported(tmp_path, capsys):
    made(tmp_path, {"seed": 1}, 2.0, versions="none", processor=None)
    for content in ("", "hydra: 3", "hydra: {overrides: {task: 7}}", "{", "hydra: {runtime: []}"):
        (tmp_path / "multirun.yaml").write_text(content)
        report(tmp_path, plots=False)
        assert "2.0000" in (tmp_path / "report.html").read_text("utf-8")
