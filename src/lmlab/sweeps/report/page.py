"""report.html: what a sweep asked and found, in one file that can be sent and read anywhere."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from lmlab.config.stored import conf_dir
from lmlab.console import command
from lmlab.data.download import cache_dir
from lmlab.errors import LabError
from lmlab.files import write_atomically
from lmlab.runs.record import read_config
from lmlab.sweeps.launch.journal import MULTIRUN
from lmlab.sweeps.report.sections import Section
from lmlab.sweeps.table.settings import Table

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.7rem; text-align: left; white-space: nowrap; }
th { border-bottom: 1px solid; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.best td { font-weight: 600; }
ul { padding-left: 1.2rem; font-size: 0.85rem; opacity: 0.75; }
pre { overflow-x: auto; padding: 0.7rem; background: rgb(128 128 128 / 15%); }
.figure { margin: 1rem 0; overflow-x: auto; background: white; color-scheme: light; }
"""
# Reads what the figures are from the page, and draws them.
DRAW = """
for (const [name, chart] of Object.entries(JSON.parse(document.getElementById("charts").text)))
  vegaEmbed(document.getElementById(name), chart, {actions: false, renderer: "svg"});
"""


def page(table: Table, folder: Path, title: str, sections: Sequence[Section]) -> str:
    """The report as HTML, with its figures and what draws them: it loads nothing."""
    parts = [f"<h1>{_text(title)}</h1>", *_question(folder)]
    for section in sections:
        parts += [f"<h2>{_text(section.title)}</h2>", *_table(section), *_list(section.notes)]
        parts += [_pre(section.lines)] if section.lines else []
        for name in section.figures:  # the inner one becomes as wide as the figure
            parts.append(f'<div class="figure"><div id="{_text(name)}"></div></div>')
    parts += ["<h2>again</h2>", _pre([*_commands(folder), *_made_with(table)]), *_charts(sections)]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{_text(title)}</title><style>{STYLE}</style>"
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body></html>\n'
    )


def _text(text: str) -> str:
    return html.escape(text)


def _pre(lines: Sequence[str]) -> str:
    return f"<pre>{_text(chr(10).join(lines))}</pre>"


def _list(lines: Sequence[str]) -> list[str]:
    return ["<ul>", *(f"<li>{_text(line)}</li>" for line in lines), "</ul>"] if lines else []


def _table(section: Section) -> Iterator[str]:
    columns = section.columns
    kinds = [' class="number"' if column.is_number else "" for column in columns]
    heads = zip(kinds, (column.heading for column in columns), strict=True)
    yield "<table>"
    yield f"<tr>{''.join(f'<th{kind}>{_text(head)}</th>' for kind, head in heads)}</tr>"
    for row, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        inside = "".join(f"<td{k}>{_text(c)}</td>" for k, c in zip(kinds, cells, strict=True))
        yield f"<tr{' class=best' if row == section.best else ''}>{inside}</tr>"
    yield "</table>"


def _charts(sections: Sequence[Section]) -> Iterator[str]:
    figures = {name: chart for section in sections for name, chart in section.figures.items()}
    if figures:
        from lmlab.sweeps.figures.charts import spec_of

        charts = json.dumps({name: spec_of(chart) for name, chart in figures.items()})
        charts = charts.replace("<", "\\u003c")  # no text of a run ends the script
        yield f'<script type="application/json" id="charts">{charts}</script>'
        yield f"<script>{vega()}</script>\n<script>{DRAW}</script>"


def vega() -> str:
    """The JavaScript that draws a figure. Bundling it takes seconds, so it is kept."""
    import vl_convert

    kept = cache_dir() / f"vega-embed-{vl_convert.get_vega_embed_version()}.js"
    with suppress(OSError):
        return kept.read_text("utf-8")
    bundle = str(vl_convert.javascript_bundle())  # type: ignore[call-arg]
    bundle = bundle.replace("</script", "<\\/script")
    with suppress(OSError):
        write_atomically(kept, bundle.encode(), parents=True)
    return bundle


def _multirun(folder: Path, *keys: str) -> Any:
    """What Hydra composed for the sweep at some key; None where nothing is left of it."""
    try:
        node: Any = read_config(folder / MULTIRUN)
    except LabError:
        return None
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _question(folder: Path) -> Iterator[str]:
    """What a named sweep asks: the comment that its config begins with."""
    name = _multirun(folder, "hydra", "runtime", "choices", "sweep")
    path = conf_dir() / "sweep" / f"{name}.yaml"
    if path.is_file():
        lines = path.read_text("utf-8").splitlines()[1:]  # behind the package
        comment = takewhile(lambda line: line.startswith("#"), lines)
        yield f"<p>{_text(' '.join(line.removeprefix('#').strip() for line in comment))}</p>"


def _commands(folder: Path) -> list[str]:
    """What trains the sweep, and what shows it again."""
    asked = [
        word
        for kind in ("task", "hydra")
        for word in map(str, _listed(_multirun(folder, "hydra", "overrides", kind)))
        if word != "hydra.mode=MULTIRUN" and not word.startswith("sweep.name='")  # it follows
    ]
    again = [f"{command('train')} -m {shlex.join(asked)}"] if asked else []
    return [*again, f"{command('sweep')} {shlex.quote(str(folder))}"]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _made_with(table: Table) -> list[str]:
    """Versions and processors of the runs, each once."""
    lines = []
    for run in table.files:
        versions = run.record.get("versions") or {}
        if isinstance(versions, dict):
            lines.append(", ".join(f"{name} {version}" for name, version in versions.items()))
        lines.append(
            ", ".join(
                f"{key} {run.record[key]}"
                for key in ("git_commit", "processor", "threads", "device")
                if run.record.get(key)
            )
        )
    return ["", *dict.fromkeys(line for line in lines if line)]
