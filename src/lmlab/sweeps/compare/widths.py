"""A sweep over widths: the best learning rate of each, and the size of activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lmlab.files import open_to_read
from lmlab.runs.directory import METRICS
from lmlab.sweeps.table.curves import of_all_seeds, read_curves
from lmlab.sweeps.table.settings import Table, folded
from lmlab.sweeps.table.values import canonical, heading, is_number, label, ordered

WIDTH, RATE = "model.n_embd", "optimizer.lr"
ACTIVATIONS, LOGITS = "activations/", "activations/logits"
MOST_PANELS = 4


def varies_width(table: Table) -> bool:
    return WIDTH in table.keys and all(map(is_number, table.settings[WIDTH]))


def panels_of(table: Table, *others: str) -> dict[str, pd.DataFrame]:
    """The settings of each pair of axes by its title; none if more than one other key differs.

    What follows from the width, such as the number of heads, is no other key.
    """
    settings = table.settings
    width = settings[WIDTH].map(canonical)
    free = [
        key
        for key in table.keys
        if key not in (WIDTH, *others)
        and settings[key].map(canonical).groupby(width).nunique().gt(1).any()
    ]
    if not free:
        return {"": settings}
    values = ordered(settings[free[0]])
    if len(free) > 1 or len(values) > MOST_PANELS:
        return {}
    texts = settings[free[0]].map(canonical)
    return {
        f"{heading(free[0])}={label(free[0], value)}": settings[texts == canonical(value)]
        for value in values
    }


def best_rates(table: Table, settings: pd.DataFrame) -> pd.Series:
    """The rate with the lowest loss of each width."""
    done = settings[np.isfinite(settings[table.metric])]
    best = done.loc[done.groupby(WIDTH)[table.metric].idxmin()]
    return best.set_index(WIDTH)[RATE].astype(float).sort_index()


def activation_sizes(table: Table) -> pd.DataFrame:
    """Mean absolute activations: columns setting, run, step, and one per tag to be drawn."""
    runs = folded(table.runs)
    tags = [f"{ACTIVATIONS}{name}" for name in _measured(runs)]
    if not tags:
        return pd.DataFrame()
    sizes = read_curves(runs, tags)
    for tag in tags:
        sizes[tag] = of_all_seeds(sizes, tag)[tag]  # NaN at all other steps
    return sizes.dropna(subset=tags, how="all")


def _measured(runs: pd.DataFrame) -> list[str]:
    """What the runs have measured of their last block and of the logits."""
    for directory in runs["directory"]:
        try:
            with open_to_read(Path(directory, METRICS), within=Path(directory)) as file:
                columns = file.readline().decode(errors="replace").strip().split(",")
        except (OSError, ValueError):
            continue
        names = [c.removeprefix(ACTIVATIONS) for c in columns if c.startswith(ACTIVATIONS)]
        branches = [n for n in names if n.endswith((".attention", ".feed_forward"))]
        last = max((n.rpartition(".")[0] for n in branches), default="", key=_block_number)
        return [n for n in branches if n.rpartition(".")[0] == last] + [
            n for n in names if n == LOGITS.removeprefix(ACTIVATIONS)
        ]
    return []


def _block_number(name: str) -> int:
    number = name.rpartition(".")[2]
    return int(number) if number.isdecimal() else -1
