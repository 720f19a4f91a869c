"""Races and halvings replayed: what the commands did on the same runs."""

import pytest

from benchmarks.replays import Grid


def test_a_race_replayed_is_the_race_that_was_held():
    grid = Grid.read("optimizers")
    leader, steps = grid.raced(3)
    assert grid.settings[leader] == grid.settings[grid.best] == "adagrad 0.1"
    assert steps == 103 * 600  # sweep.race.first=3 trained 103 of the 240 runs


@pytest.mark.parametrize("name", ["optimizers", "ladder", "transfer"])
def test_halving_by_rungs_takes_what_its_rungs_say(name):
    grid = Grid.read(name)
    n, end, first = len(grid.settings), grid.steps[-1], grid.steps[0]
    ends, steps = grid.halved(first, n_seeds=2, synchronous=True)
    expected, before, bound, at = 0, 0, first, n
    while True:
        expected += 2 * at * (bound - before)
        if bound == end:
            break
        before, bound, at = bound, min(3 * bound, end), max(1, at // 3)
    assert steps == expected
    assert len(ends) == at
