"""What a job needs, imported. Workers are forks of a process that has imported this, and no more:
it has no threads."""

import gc

import lmlab.core.train
import lmlab.sweeps.launch.job  # noqa: F401

gc.collect()
gc.freeze()  # what is there now stays: no later collection looks through it
