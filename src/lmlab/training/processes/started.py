"""How this process was started: by itself, or as one of several. Without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lmlab.errors import LabError


def is_alone_in_slurm(settings: Mapping[str, Any]) -> bool:
    """Whether this process was started in a job of SLURM with room for several tasks, but as none
    of them: by `python` in the script of `sbatch -n 2`. (srun says which step a task belongs to.)

    Lightning takes it for one of several, and refuses it, or waits for the others. `settings` are
    the Trainer's.
    """
    given = os.environ
    if given.get("SLURM_NTASKS", "1") == "1" or "TORCHELASTIC_RUN_ID" in given:
        return False
    is_single = settings.get("devices", 1) in (1, "1") and settings.get("num_nodes", 1) == 1
    return "SLURM_STEP_ID" not in given and ("SLURM_NTASKS_PER_NODE" not in given or is_single)


def check_started_once(settings: Mapping[str, Any]) -> None:
    """A sweep's jobs start their processes one after the other, so the sweep itself is one process.

    Raises:
        LabError: if a job wants several processes, and this one is itself one of several.
    """
    several = settings.get("devices", 1) != 1 or settings.get("num_nodes", 1) != 1
    n_tasks = int(os.environ.get("SLURM_NTASKS", 1)) if "SLURM_PROCID" in os.environ else 1
    one_of_several = n_tasks > 1 and not is_alone_in_slurm(settings)
    if several and ("LOCAL_RANK" in os.environ or one_of_several):
        raise LabError(
            f"trainer.devices={settings['devices']} in a sweep: each job starts its own processes, "
            "so start the sweep once, not by torchrun nor as several tasks of srun"
        )
