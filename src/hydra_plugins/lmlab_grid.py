"""Hydra's grid sweeper, for keys that go together or depend on others, and for sweeps that outlive
their failures."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class GridSweeper(Sweeper):
    """Every combination of the swept values, by conf/hydra/sweeper/grid.yaml.

    What the command line says of a key replaces what `params` and `when` say of it.
    """

    def __init__(
        self,
        params: dict[str, Any] | None = None,
        when: dict[str, dict[str, Any]] | None = None,
    ):
        self.params, self.when = params or {}, when or {}
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.launcher: Launcher | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from lmlab.sweeps.launch.composing import RememberingLoader

        hydra_context.config_loader = RememberingLoader(hydra_context.config_loader)
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from lmlab.files import make_folder, write_atomically
        from lmlab.sweeps.launch.composing import check_jobs
        from lmlab.sweeps.launch.journal import MULTIRUN
        from lmlab.sweeps.launch.launching import check_some, finish, folder_of, launch
        from lmlab.sweeps.launch.slurm import submit

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        jobs = self.jobs(arguments)
        sweep_dir = folder_of(self.config, len(jobs))
        check_jobs(self.config, self.hydra_context.config_loader, self.representatives(jobs))
        check_some(self.config, self.hydra_context.config_loader, jobs)
        make_folder(sweep_dir)
        write_atomically(sweep_dir / MULTIRUN, OmegaConf.to_yaml(self.config).encode())
        run = launch if self.config.sweep.wait or self.config.dry_run else submit
        results = run(self.launcher, sweep_dir, jobs)
        finish(sweep_dir, results)
        return results

    def jobs(self, arguments: list[str]) -> list[list[str]]:
        """The overrides of each job."""
        from lmlab.config.words.axes import Axes, check_names, every_row
        from lmlab.sweeps.launch.launching import check_multirun

        assert self.config is not None
        assert self.hydra_context is not None
        check_names(self.params, self.config)
        axes = Axes.parse(self.params, self.when, arguments, self.hydra_context.config_loader)
        axes.check_size(check_multirun(self.config).sweep.max_jobs)
        found = {tuple(job): None for job in axes.jobs(every_row)}  # in order, each once
        return [list(job) for job in found]

    def representatives(self, jobs: list[list[str]]) -> list[list[str]]:
        """Jobs that have every key and every option of a group: if they compose, all do.

        Composing takes a tenth of a second, and the value of a key makes no difference to it.
        """
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        groups = set(loader.list_groups("")) | {f"hydra/{g}" for g in loader.list_groups("hydra")}
        seen: set[str] = set()
        found = []
        for job in jobs:
            parts = {w if w.partition("=")[0] in groups else w.partition("=")[0] for w in job}
            if parts - seen:
                found.append(job)
                seen |= parts
        return found
