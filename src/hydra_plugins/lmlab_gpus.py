"""A Hydra launcher that gives each job of a multirun a GPU of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmlab.sweeps.launch.sweeper import PoolLauncher

if TYPE_CHECKING:
    from lmlab.sweeps.launch.pool import Workers


class GpusLauncher(PoolLauncher):
    """By conf/hydra/launcher/gpus.yaml."""

    def __init__(self, devices: Sequence[int | str] | None = None, jobs_per_gpu: int = 1):
        """`devices` as CUDA_VISIBLE_DEVICES names them; None: all that there are."""
        self.devices, self.jobs_per_gpu = devices, jobs_per_gpu

    def pool(self, n_jobs: int) -> Workers:
        from lmlab.console import say
        from lmlab.sweeps.launch.pool import workers_on_gpus

        pool = workers_on_gpus(self, self.devices, self.jobs_per_gpu, n_jobs)
        names = list(dict.fromkeys(e["CUDA_VISIBLE_DEVICES"] for e in pool.environments))
        jobs = "1 job" if self.jobs_per_gpu == 1 else f"{self.jobs_per_gpu} jobs"
        say(f"GPUs {', '.join(names)}: {jobs} on each at a time")
        return pool
