"""Hydra's grid sweeper, for keys that go together or depend on others, and for sweeps that outlive
their failures."""

from __future__ import annotations

from typing import Any

from lmlab.sweeps.launch.sweeper import LabSweeper


class GridSweeper(LabSweeper):
    """Every combination of the swept values, by conf/hydra/sweeper/grid.yaml.

    What the command line says of a key replaces what `params` and `when` say of it.
    """

    def __init__(
        self,
        params: dict[str, Any] | None = None,
        when: dict[str, dict[str, Any]] | None = None,
    ):
        self.params, self.when = params or {}, when or {}

    def sweep(self, arguments: list[str]) -> Any:
        from lmlab.config.words.axes import Axes, every_row
        from lmlab.sweeps.launch.before import EndedBefore
        from lmlab.sweeps.launch.launching import finish, launch
        from lmlab.sweeps.launch.pool import pool_of
        from lmlab.sweeps.launch.preparing import check_jobs, check_multirun, make_sweep
        from lmlab.sweeps.launch.slurm.slurm import check_outlives, submit
        from lmlab.sweeps.launch.work import work_of

        axes = Axes.parse(self.params, self.when, arguments, self.loader, self.config)
        axes.check_size(check_multirun(self.config).sweep.max_jobs)
        jobs = list(axes.jobs(every_row))
        if self.config.sweep.race.first is not None:
            from lmlab.sweeps.search.racing import race_grid

            return race_grid(self.config, self.loader, self.launcher, arguments, jobs)
        is_followed = self.config.sweep.wait or self.config.dry_run
        if not is_followed:
            check_outlives(self.launcher)  # before anything is started
        with pool_of(self.launcher, len(jobs)) as pool:
            check_jobs(self.config, self.loader, arguments, jobs, pool=pool)
            sweep_dir = make_sweep(self.config)
            if is_followed:
                work = work_of(self.config, self.loader, jobs, pool)
                before = EndedBefore(self.config, self.loader, sweep_dir, arguments)
                results = launch(pool, sweep_dir, jobs, work, before)
            else:
                results = submit(self.launcher, sweep_dir, jobs)
        finish(sweep_dir, results)
        return results
