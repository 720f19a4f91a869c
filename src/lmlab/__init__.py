"""lmlab: a laboratory for small language models.

    run = lmlab.train("model=head", seed=2)
    lmlab.sweep("model=bigram,head", "seed=1,2").table()
    lmlab.open("outputs/…")

Importing this package is cheap: torch and lightning are imported by the functions that need them.
"""

from lmlab.api import open, sweep, train
from lmlab.errors import LabError

__all__ = ["LabError", "open", "sweep", "train"]
__version__ = "0.1.0"
