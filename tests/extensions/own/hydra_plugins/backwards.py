"""A launcher of one's own: the last job first."""

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict


class Backwards(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        returned = []
        for number, words in reversed([*enumerate(job_overrides, initial_job_idx)]):
            loader = self.hydra_context.config_loader
            config = loader.load_sweep_config(self.config, list(words))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            HydraConfig.instance().set_config(config)
            returned.append(
                run_job(
                    task_function=self.task_function,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                    hydra_context=self.hydra_context,
                )
            )
        return returned[::-1]
