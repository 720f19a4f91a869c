"""What a job needs, imported. Workers are forks of a process that has imported this, and no more:
it has no threads."""

import gc
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word; the first says so

import lmlab.core.train  # noqa: E402
import lmlab.sweeps.launch.job  # noqa: E402, F401

gc.collect()
gc.freeze()  # what is there now stays: no later collection looks through it
