"""report.html: what a sweep asked and found, in one file that can be sent and read anywhere."""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from lmlab.config.stored import conf_dir
from lmlab.console import command
from lmlab.errors import LabError
from lmlab.runs.record import read_config
from lmlab.sweeps.compare.differences import Differences, compare
from lmlab.sweeps.launch.journal import MULTIRUN
from lmlab.sweeps.report.leaderboard import columns, failures, summary
from lmlab.sweeps.report.notes import notes
from lmlab.sweeps.report.sections import Column, Section
from lmlab.sweeps.report.verdicts import (
    difference_columns,
    difference_title,
    notes_on,
    notes_on_marks,
)
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
img { max-width: 100%; height: auto; background: white; }
"""


def page(
    table: Table,
    folder: Path,
    title: str,
    pictures: Mapping[str, bytes] | None = None,
    comparisons: Sequence[Differences] = (),
    sections: Sequence[Section] = (),
) -> str:
    """The report as HTML; `pictures`, PNG by name, are put into the page."""
    to_best = compare(table)
    parts = [f"<h1>{_text(title)}</h1>", *_question(folder), f"<p>{_text(summary(table))}.</p>"]
    parts += _table(columns(table, folder, to_best), best=table.best)
    parts += _list([*notes(table), *notes_on_marks(to_best)])
    for i, found in enumerate(comparisons):
        parts += [f"<h2>{_text(difference_title(found))}</h2>"]
        parts += [*_table(difference_columns(found)), *_list(notes_on(found, legend=i == 0))]
    for section in sections:
        parts += [f"<h2>{_text(section.title)}</h2>"]
        parts += [*_table(section.columns), *_list(section.notes)]
    if bad := failures(table, folder):
        parts += ["<h2>failures</h2>", _pre(bad)]
    parts += [_picture(name, png) for name, png in (pictures or {}).items()]
    parts += ["<h2>again</h2>", _pre([*_commands(folder), *_made_with(table)])]
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


def _table(wanted: Sequence[Column], best: int | None = None) -> Iterator[str]:
    """`best` is the row in bold, counted from 1."""
    kinds = [' class="number"' if column.is_number else "" for column in wanted]
    heads = zip(kinds, (column.heading for column in wanted), strict=True)
    yield "<table>"
    yield f"<tr>{''.join(f'<th{kind}>{_text(head)}</th>' for kind, head in heads)}</tr>"
    for row, cells in enumerate(zip(*(column.cells for column in wanted), strict=True), 1):
        inside = "".join(f"<td{k}>{_text(c)}</td>" for k, c in zip(kinds, cells, strict=True))
        yield f"<tr{' class=best' if row == best else ''}>{inside}</tr>"
    yield "</table>"


def _picture(name: str, png: bytes) -> str:
    encoded = base64.b64encode(png).decode("ascii")
    return f'<p><img alt="{_text(Path(name).stem)}" src="data:image/png;base64,{encoded}"></p>'


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
    for run in table.found:
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
