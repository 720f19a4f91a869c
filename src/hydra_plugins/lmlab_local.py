"""A Hydra launcher that trains a job on each core of this machine at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmlab.sweeps.launch.sweeper import PoolLauncher

if TYPE_CHECKING:
    from lmlab.sweeps.launch.pool import Workers


class LocalLauncher(PoolLauncher):
    """By conf/hydra/launcher/local.yaml."""

    def __init__(self, n_jobs: int | None = None):
        """`n_jobs` at a time; None: as many as there are cores."""
        self.n_jobs = n_jobs

    def pool(self, n_jobs: int) -> Workers:
        from lmlab.sweeps.launch.pool import workers_on_cores

        return workers_on_cores(self, self.n_jobs, n_jobs)
