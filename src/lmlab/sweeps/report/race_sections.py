"""How a race of seeds ended, as a section of the report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from scipy.special import stdtrit

from lmlab.sweeps.compare.paired import LEVEL
from lmlab.sweeps.report.sections import Column, Section
from lmlab.sweeps.table.raced import Raced
from lmlab.sweeps.table.values import shown
from lmlab.sweeps.table.words import figure


def race_sections(folder: Path) -> Iterator[Section]:
    """What each setting's end rested on, where a folder has a race."""
    raced = Raced.read(folder)
    if raced is None:
        return
    rows = raced.rows
    columns = [
        Column("setting", False, [shown(row["setting"]) for row in rows]),
        Column("seeds", True, [str(row["seeds"]) for row in rows]),
        Column("val/loss_full", True, [figure(row["loss"]) for row in rows]),
        Column("", False, [shown(row.get("why", "")) for row in rows]),
        Column("difference", True, [_signed(row.get("difference")) for row in rows]),
        Column("95 %", True, [_interval(row.get("low"), row.get("high")) for row in rows]),
        Column("p", True, [_p(row.get("p")) for row in rows]),
    ]
    whole = len(rows) * raced.n_seeds
    notes = [
        *_measured(raced),
        f"{raced.n_runs} of {whole} runs were needed ({raced.n_runs / whole:.0%})"
        + f", and {len(raced.fresh)} on fresh seeds" * bool(raced.fresh),
        "val/loss_full: nats per token, mean over the seeds that the setting raced with",
        "difference: from the best when it stopped, paired by seed; its interval is of 95 % at all "
        f"looks and for all settings together, and p, by Holm's correction, is below the share of "
        f"{LEVEL:g} that the look had",
    ]
    title = "the race" if raced.has_winner else "the race, which no setting won"
    yield Section(title, columns, notes, best=0)


def _measured(raced: Raced) -> Iterator[str]:
    losses, n = raced.losses, len(raced.losses)
    if n < 2:
        return
    mean = sum(losses) / n
    deviation = math.sqrt(sum((loss - mean) * (loss - mean) for loss in losses) / (n - 1))
    half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * deviation / math.sqrt(n)
    seeds = ", ".join(map(str, raced.fresh))
    yield (
        f"{shown(raced.rows[0]['setting'])}: {figure(mean, deviation)} on fresh seeds {seeds} "
        f"(95 % of the mean: {figure(mean - half)} to {figure(mean + half)}); this figure is not "
        "flattered by having been picked"
    )


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _signed(value: float | None) -> str:
    return f"{value:+.4f}" if _is_known(value) else ""


def _interval(low: float | None, high: float | None) -> str:
    return f"{low:+.4f} to {high:+.4f}" if _is_known(low) and _is_known(high) else ""


def _p(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
