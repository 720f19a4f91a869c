"""How results are shown and kept."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.rounds import Part, Ratio, Table
from lmlab.files import write_atomically


def tables(parts: list[Part]) -> list[Table]:
    """All ratios, with what was aimed for; then the tables of each part."""
    said = {True: "yes", False: "no", None: ""}
    ratios = [
        [ratio.what, f"{ratio.value:.3g}", ratio.aim, said[ratio.reached]]
        for part in parts
        for ratio in part.ratios
    ]
    first = Table("ratios", ["", "measured", "aim", "reached"], ratios)
    return [first, *(table for part in parts for table in part.tables)]


def markdown(table: Table) -> str:
    """A table as docs/performance.md shows it."""
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(table: Table) -> str:
    """A table as a terminal shows it."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return "\n".join([table.title, *lines])


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": os.getloadavg(),  # before; other work on the machine shows here
    }


def about(where: dict[str, Any]) -> str:
    """The machine in a line."""
    load = ", ".join(f"{load:.1f}" for load in where["load"])
    return (
        f"{where['processor']}, {where['cores']} cores, {where['threads']} threads; "
        f"torch {where['torch']}, Python {where['python']}; load before: {load}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def write(path: Path, where: dict[str, Any], parts: list[Part]) -> None:
    """Everything measured, as JSON."""
    found = {"machine": where, "parts": [asdict(part) for part in parts]}
    write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())


def read(path: Path) -> tuple[dict[str, Any], list[Part]]:
    """What `write` wrote."""
    found = json.loads(path.read_text())
    parts = [
        Part(
            part["name"],
            [Ratio(**ratio) for ratio in part["ratios"]],
            [Table(**table) for table in part["tables"]],
            part["seconds"],
        )
        for part in found["parts"]
    ]
    return found["machine"], parts
