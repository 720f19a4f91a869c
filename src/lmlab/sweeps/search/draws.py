"""Settings drawn at random from a search space, each with every seed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import RandomSampler

from lmlab.sweeps.search.space import Space, values_of
from lmlab.sweeps.search.study import seed_for, suggested
from lmlab.sweeps.table.reading import SEED


def drawn(space: Space, n: int, seed: int) -> Iterator[list[str]]:
    """The overrides of each run of up to `n` settings: the first of them whatever `n` is. What is
    drawn again is left out; the seed is not drawn, where its values can be counted."""
    study = optuna.create_study()
    own = space.searched.get(SEED)
    is_axis = isinstance(own, CategoricalDistribution | IntDistribution)
    seeds = list(values_of(own)) if is_axis and own is not None else [None]
    seen = set()
    for number in range(n):
        study.sampler = RandomSampler(seed_for(seed, number))
        trial = study.ask(fixed_distributions={SEED: own} if is_axis and own is not None else None)
        space.suggest(partial(suggested, trial))
        for value in seeds:
            job = space.job({**trial.params, **({} if value is None else {SEED: value})})
            if tuple(job) not in seen:
                seen.add(tuple(job))
                yield job
