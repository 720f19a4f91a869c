"""Sections as files: Markdown for GitHub, CSV and JSON for a program, figures as pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from lmlab.sweeps.kept import PLOTS
from lmlab.sweeps.report.sections import Column, Section


def markdown(title: str, sections: Sequence[Section]) -> str:
    """A page for GitHub."""
    lines = [f"# {_escaped(title)}"]
    for section in sections:
        lines += ["", f"## {_escaped(section.title)}", "", *_table(section.columns)]
        lines += ["", *(f"- {_escaped(note)}" for note in section.notes)]
        if section.lines:
            lines += ["", "```", *section.lines, "```"]
        for name in section.figures:
            lines += ["", f"![{name}]({PLOTS}/{name}.png)"]
    return "\n".join(lines) + "\n"


def _table(columns: Sequence[Column]) -> list[str]:
    rows = [[column.heading for column in columns], *zip(*(c.cells for c in columns), strict=True)]
    lines = ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("---:" if c.is_number else "---" for c in columns) + "|")
    return lines


def _escaped(text: str) -> str:
    for mark in "\\|`*<":
        text = text.replace(mark, f"\\{mark}")
    return text


def exact_files(sections: Sequence[Section]) -> dict[str, bytes]:
    """CSV and JSON by name: what each section holds, in full precision."""
    frames: dict[str, list[pd.DataFrame]] = {}
    others: dict[str, str] = {}
    for name, content in (file for section in sections for file in section.files().items()):
        if isinstance(content, pd.DataFrame):
            frames.setdefault(name, []).append(content)
        else:
            others[name] = json.dumps(content, indent=2) + "\n"
    tables = {
        name: pd.concat(of_sections).to_csv(index=False, lineterminator="\n")
        for name, of_sections in frames.items()
    }
    return {name: text.encode() for name, text in (tables | others).items()}


def pictures(sections: Sequence[Section]) -> dict[str, bytes]:
    """Each figure as PNG and as SVG, by name."""
    figures = {name: chart for section in sections for name, chart in section.figures.items()}
    if not figures:
        return {}
    from lmlab.sweeps.figures.charts import png_of, svg_of

    svg = {name: svg_of(chart) for name, chart in figures.items()}
    png = {f"{PLOTS}/{name}.png": png_of(picture) for name, picture in svg.items()}
    return png | {f"{PLOTS}/{name}.svg": picture for name, picture in svg.items()}
