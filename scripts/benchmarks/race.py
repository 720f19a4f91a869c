"""Part 9, races of seeds: how often chance wins one, what intervals cover, what is saved.

Nothing is trained: losses are drawn, or are those of grids that were trained once (`replays`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from benchmarks.replays import ORDERS, Grid, replays
from benchmarks.rounds import Part, Ratio, Table
from lmlab.sweeps.compare.race import race

N_SEEDS, FIRST = 10, 3
FRESH = 3  # seeds that the leader is measured on again
# val/loss_full of conf/model/head.yaml at 300 steps with 60 seeds: the noise that there is.
STORED = [
    *(2.9867, 3.0518, 3.0762, 3.0284, 3.0841, 3.0923, 3.0605, 2.9775, 3.0871, 3.0083),
    *(3.1020, 2.9860, 3.0852, 3.0790, 3.0357, 3.0734, 3.0285, 3.1261, 2.9585, 3.1154),
    *(3.1326, 3.1050, 3.0466, 3.0580, 3.1274, 3.0850, 3.1160, 3.0658, 3.0399, 3.0559),
    *(3.0932, 3.0157, 3.0050, 3.0877, 3.0326, 3.0864, 3.0414, 3.0766, 3.0702, 2.9966),
    *(3.1290, 3.1104, 3.0535, 3.0577, 3.1203, 3.0130, 3.0215, 3.0405, 3.1386, 3.1540),
    *(3.0778, 2.9856, 3.1240, 3.0607, 3.0650, 3.0506, 2.9866, 3.0126, 3.0316, 3.0884),
]

Draw = Callable[[np.random.Generator, int], np.ndarray]  # noise (settings, seeds + FRESH)


def stored(chance: np.random.Generator, n_settings: int) -> np.ndarray:
    """Losses of runs that were trained, in units of their deviation; each is drawn anew."""
    losses = np.asarray(STORED)
    scaled = (losses - losses.mean()) / losses.std(ddof=1)
    return chance.choice(scaled, (n_settings, N_SEEDS + FRESH))


def normal(chance: np.random.Generator, n_settings: int) -> np.ndarray:
    """Normal noise, half of which the runs of a seed share."""
    shape = (n_settings, N_SEEDS + FRESH)
    return (chance.standard_normal(shape) + chance.standard_normal(shape[1])) / np.sqrt(2)


def unlike(chance: np.random.Generator, n_settings: int) -> np.ndarray:
    """Normal noise of settings that are unlike: one may be twenty times as noisy as another."""
    deviations = 20 ** chance.uniform(-0.5, 0.5, (n_settings, 1))
    noise = chance.standard_normal((n_settings, N_SEEDS + FRESH))
    return deviations * noise + chance.standard_normal(N_SEEDS + FRESH)


@dataclass
class Counts:
    """What came of some races."""

    races: int = 0
    won: int = 0  # a winner was named
    right: int = 0  # the best led at the end
    lost_best: int = 0  # the best was stopped as worse
    covered: int = 0  # the mean of the leader, by the interval of its fresh seeds
    wrong: int = 0  # something was stopped as worse that is not
    runs: int = 0
    runs_of_all: int = 0  # if each setting had all of its seeds


def races(n: int, means: np.ndarray, draw: Draw, first: int = FIRST) -> Counts:
    """Race settings of these mean losses, in units of the deviation of a run, `n` times."""
    chance, counts = np.random.default_rng(0), Counts()
    for _ in range(n):
        losses = means[:, None] + draw(chance, len(means))
        end = race(losses[:, :N_SEEDS].tolist(), N_SEEDS, first)
        leader = end.racing[0]
        counts.races += 1
        counts.runs_of_all += len(means) * N_SEEDS
        counts.won += end.winner is not None
        counts.right += means[leader] == means.min()
        best = int(means.argmin())
        counts.lost_best += best in end.stopped
        counts.runs += end.n * len(end.racing) + sum(one.n for one in end.stopped.values())
        again = losses[leader, N_SEEDS:]
        half = stdtrit(FRESH - 1, 0.975) * again.std(ddof=1) / np.sqrt(FRESH)
        counts.covered += abs(again.mean() - means[leader]) <= half
        counts.wrong += any(means[i] <= means[one.against] for i, one in end.stopped.items())
    return counts


def run(rounds: int, quick: bool) -> Part:
    """Settings that are equal, and settings that are not."""
    part, n = Part("races of seeds"), 200 if quick else 2000
    rows = []
    for name, draw in (("stored runs", stored), ("normal", normal), ("unlike noise", unlike)):
        for n_settings, first in ((30, 2), (2, FIRST), (6, FIRST), (30, FIRST)):
            equal = races(n, np.zeros(n_settings), draw, first)
            looked = "" if first == FIRST else f", first look after {first}"
            rows.append(_row(f"{n_settings} equal settings, {name}{looked}", equal))
            what = f"race: {n_settings} equal settings, {name}{looked}, "
            part.ratios.append(Ratio(f"{what}a winner is named", equal.won / n, at_most=0.05))
            stopped = equal.lost_best / n
            part.ratios.append(Ratio(f"{what}the best is stopped", stopped, at_most=0.05))
        apart = races(n, np.array([0.0, 1, 2, 3, 4, 5]), draw)
        rows.append(_row(f"6 settings, a deviation apart, {name}", apart))
        far = races(n, np.array([0.0, 5, 5, 5, 5, 5]), draw)
        rows.append(_row(f"1 of 6 five deviations ahead, {name}", far))
        if name == "normal":
            for what, counts in (("equal", equal), ("apart", apart), ("one ahead", far)):
                off = abs(counts.covered / n - 0.95)
                what = f"race: settings {what}, coverage by fresh seeds minus 0.95"
                part.ratios.append(Ratio(what, off, at_most=0.02))
    columns = ["", "winner named", "best stopped", "an equal stopped", "best leads"]
    columns += ["fresh interval covers", "runs"]
    part.tables.append(Table(f"races of {N_SEEDS} seeds, {n:,} of each", columns, rows))
    _replay(part)
    return part


def _replay(part: Part) -> None:
    """What three sweeps would have taken."""
    rows = []
    for grid in map(Grid.read, ("optimizers", "ladder", "transfer")):
        whole = f"{grid.name}: {len(grid.settings)} settings x {grid.losses.shape[1]} seeds"
        for one in replays(grid):
            same = f"{one.same:.0%}"
            rows.append([whole, one.way, f"{one.steps:.0%}", same, f"{one.beside:.4f}"])
            if one.way.startswith("race") or one.way.endswith("then race"):
                what = f"race: {grid.name}, {one.way}, "
                part.ratios.append(Ratio(f"{what}of the grid's steps", one.steps, at_most=0.5))
                part.ratios.append(Ratio(f"{what}another winner", 1 - one.same, at_most=0.05))
    columns = ["", "", "steps", "the grid's winner", "behind it at most"]
    title = f"three grids, each replayed with its seeds and settings in {ORDERS} orders"
    part.tables.append(Table(title, columns, rows))


def _row(what: str, counts: Counts) -> list[str]:
    n = counts.races
    return [
        what,
        f"{counts.won / n:.1%}",
        f"{counts.lost_best / n:.1%}",
        f"{counts.wrong / n:.1%}",
        f"{counts.right / n:.1%}",
        f"{counts.covered / n:.1%}",
        f"{counts.runs / counts.runs_of_all:.0%}",
    ]
