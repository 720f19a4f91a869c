"""Races and halvings of three whole grids that were trained once: what each would have trained, and
which setting it would have led to. Nothing is trained: both follow from the losses alone.

grids/*.csv have a row for each run, its val/loss at evaluations and last val/loss_full, of

    lmlab train sweep=optimizers 'seed=range(1,9)' trainer.max_steps=600 eval.every=50 eval.iters=10
        data.batch_size=16
    lmlab train sweep=ladder experiment=… 'seed=range(1,9)' trainer.max_steps=500 eval.every=50
        eval.iters=10                               (all rungs but ngram, which counts)
    lmlab train sweep=transfer trainer.max_steps=100 eval.every=20 eval.iters=10 data.block_size=32
        schedule.warmup_steps=10                    (widths 64 and 32, seeds 1 to 8)
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmlab.sweeps.compare.race import race
from lmlab.sweeps.search.rungs import Standing, next_move, rungs

GRIDS = Path(__file__).parent / "grids"
FIRST, FACTOR = 3, 3
ORDERS = 40  # of the seeds, and of the settings where halving begins them


@dataclass(frozen=True)
class Grid:
    """All runs of a sweep."""

    name: str
    settings: list[str]
    steps: list[int]  # where there are losses; the last is the end
    losses: np.ndarray  # (settings, seeds, steps)

    @classmethod
    def read(cls, name: str) -> Grid:
        with (GRIDS / f"{name}.csv").open() as file:
            head, *rows = csv.reader(file)
        by_setting: dict[str, list[list[float]]] = {}
        for setting, _, *losses in rows:
            by_setting.setdefault(setting, []).append([float(loss) for loss in losses])
        steps = [int(step) for step in head[2:]]
        return cls(name, list(by_setting), steps, np.array(list(by_setting.values())))

    @property
    def best(self) -> int:
        """The setting that leads when all runs are there."""
        return int(self.losses[:, :, -1].mean(1).argmin())

    @property
    def n_steps(self) -> int:
        """Of all runs."""
        return self.losses.shape[0] * self.losses.shape[1] * self.steps[-1]

    def shuffled(self, chance: np.random.Generator) -> Grid:
        """With its seeds, and its settings, in another order."""
        settings = chance.permutation(len(self.settings))
        seeds = chance.permutation(self.losses.shape[1])
        names = [self.settings[i] for i in settings]
        return Grid(self.name, names, self.steps, self.losses[settings][:, seeds])

    def raced(self, first: int) -> tuple[int, int]:
        """Where a race leads that is first looked at after `first` seeds, and its steps."""
        n_seeds = self.losses.shape[1]
        end = race(self.losses[:, :, -1].tolist(), n_seeds, first)
        n_runs = end.n * len(end.racing) + sum(one.n for one in end.stopped.values())
        return end.racing[0], n_runs * self.steps[-1]

    def halved(self, min_steps: int, n_seeds: int, synchronous: bool) -> tuple[list[int], int]:
        """The settings that halving takes to the end with the first seeds, the best first, and its
        steps; one setting is trained at a time."""
        at = rungs(min_steps, FACTOR, self.steps[-1])
        columns = [self.steps.index(step) for step in at]
        means = self.losses[:, :n_seeds, columns].mean(1)
        standings, spent = [Standing()] * len(self.settings), 0
        while move := next_move(standings, len(at), FACTOR, synchronous):
            before = standings[move.setting].goal
            spent += n_seeds * (at[move.goal] - (0 if before is None else at[before]))
            losses = tuple(float(loss) for loss in means[move.setting, : move.goal + 1])
            standings[move.setting] = Standing(losses, move.goal)
        ends = [i for i, one in enumerate(standings) if len(one.losses) == len(at)]
        return sorted(ends, key=lambda i: standings[i].losses[-1]), spent

    def halved_and_raced(self, min_steps: int, synchronous: bool) -> tuple[int, int]:
        """Halving with the first seeds, and a race for the others of what comes to the end."""
        ends, spent = self.halved(min_steps, FIRST, synchronous)
        end = race(self.losses[ends][:, :, -1].tolist(), self.losses.shape[1], FIRST)
        n_runs = end.n * len(end.racing) + sum(one.n for one in end.stopped.values())
        return ends[end.racing[0]], spent + (n_runs - FIRST * len(ends)) * self.steps[-1]


@dataclass
class Replayed:
    """What came of a grid, replayed in several orders."""

    grid: str
    way: str
    same: float  # share of orders that lead to the grid's best
    steps: float  # of the grid's, mean over the orders
    beside: float  # what leads, minus the grid's best, in the whole grid: the most of all orders


def replays(grid: Grid) -> list[Replayed]:
    """A grid, raced and halved with its first rung early and later, in ORDERS orders."""
    early, late = {"optimizers": (50, 200), "ladder": (50, 150), "transfer": (20, 40)}[grid.name]
    chance = np.random.default_rng(0)
    orders = [grid.shuffled(chance) for _ in range(ORDERS)]
    ways = {
        f"race, first look after {first} seeds": [one.raced(first) for one in orders]
        for first in (FIRST, FIRST - 1)
    }
    for min_steps in (early, late):
        halved = [one.halved(min_steps, FIRST, False) for one in orders]
        share = FIRST / grid.losses.shape[1]  # beside a grid of as few seeds
        name = f"halving from step {min_steps}, {FIRST} seeds"
        ways[name] = [(ends[0], round(spent / share)) for ends, spent in halved]
        ways[f"halving from step {min_steps}, then race"] = [
            one.halved_and_raced(min_steps, False) for one in orders
        ]
    return [_replayed(grid, way, orders, ended) for way, ended in ways.items()]


def _replayed(grid: Grid, way: str, orders: list[Grid], ended: list[tuple[int, int]]) -> Replayed:
    means = dict(zip(grid.settings, grid.losses[:, :, -1].mean(1), strict=True))
    best = grid.settings[grid.best]
    leaders = [one.settings[leader] for one, (leader, _) in zip(orders, ended, strict=True)]
    steps = float(np.mean([spent for _, spent in ended])) / grid.n_steps
    beside = max(float(means[leader] - means[best]) for leader in leaders)
    same = sum(leader == best for leader in leaders) / len(leaders)
    return Replayed(grid.name, way, same, steps, beside)
