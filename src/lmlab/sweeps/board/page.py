"""report.html: the tab's page of one sweep, with its answers inside. It loads nothing."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmlab.sweeps.board.answers import describe, drawn
from lmlab.sweeps.board.scan import SeenRun, SeenSweep
from lmlab.sweeps.board.single.one_run import about_run
from lmlab.sweeps.figures.vega_script import vega_script
from lmlab.sweeps.live.watched import told_by_runs
from lmlab.sweeps.report.sections import Section
from lmlab.sweeps.table.settings import Table

FRONTEND = Path(__file__).parent / "frontend"
IMPORT = re.compile(r"^import (\{[^}]*\}) from '\./([\w.]+)';\n", re.M)
EXPORT = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.M)
MOST_JOBS = 2_000
MOST_OF_RUNS = 1_500_000  # characters of runs' own pages; those of the best settings come first
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
WITHOUT = "This page is drawn by JavaScript; leaderboard.md, beside it, has its tables."


def page(table: Table, folder: Path, title: str, sections: Sequence[Section]) -> str:
    """The page as HTML, of what the sections say."""
    sweep = _sweep(table, folder, title)
    about, figures = describe(sweep, table, sections, MOST_JOBS), drawn(sections)
    runs = _pages_of_runs(sweep, about["jobs"])
    answers = {"sweep": {sweep.name: about}, "figures": {sweep.name: figures}, "run": runs}
    inside = json.dumps(answers, allow_nan=False).replace("<", "\\u003c")  # none ends the script
    style = (FRONTEND / "style.css").read_text("utf-8")
    vega = f"<script>{vega_script()}</script>\n" if figures else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n<body>\n"
        f"<noscript>{WITHOUT}</noscript>\n"
        f'<script type="application/json" id="answers">{inside}</script>\n'
        f"{vega}<script>{bundle('index.js')}</script>\n</body></html>\n"
    )


def bundle(entry: str) -> str:
    """The modules of the tab as one script that renders the page.

    Each is a function, called once after those that it imports; what it exports is what that
    function returns.
    """
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        text = (FRONTEND / name).read_text("utf-8")
        for _, other in IMPORT.findall(text):
            if other not in parts:
                add(other)
        exported = ", ".join(name for _, name in EXPORT.findall(text))
        text = IMPORT.sub(r"const \1 = modules['\2'];\n", EXPORT.sub(r"\1", text))
        parts[name] = f"modules['{name}'] = (() => {{\n{text}return {{ {exported} }};\n}})();\n"

    add(entry)
    script = f"'use strict';\nconst modules = {{}};\n{''.join(parts.values())}"
    return f"{script}modules['{entry}'].render();".replace("</script", "<\\/script")


def _sweep(table: Table, folder: Path, title: str) -> SeenSweep:
    """The runs of a table, as the tab would see them in the folder."""
    runs = [
        SeenRun(os.path.relpath(files.path, folder), files.path, title, files, "", ())
        for files in table.files
    ]
    unreadable = [
        SeenRun("", folder / "(a record)", title, None, reason, ()) for reason in table.unreadable
    ]
    progress = told_by_runs(table.files)
    return SeenSweep(title, folder, True, (*runs, *unreadable), progress, 0.0, "")


def _pages_of_runs(sweep: SeenSweep, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """By name what the tab shows of a run, as many as there is room for. The jobs of the others
    lead nowhere."""
    pages: dict[str, Any] = {}
    room, by_name = MOST_OF_RUNS, {run.name: run for run in sweep.runs}
    for job in sorted(jobs, key=lambda job: job.get("setting") or len(jobs)):
        run = by_name.get(job["run"])
        about = about_run(run) if room > 0 and run is not None and run.files is not None else None
        room -= len(json.dumps(about))
        if about is not None and room > 0:
            pages[job["run"]] = about
        else:
            job["run"] = None
    return pages
