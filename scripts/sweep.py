"""python scripts/sweep.py outputs/sweeps/<name>: see --help."""

from lmlab.sweeps.command import main

if __name__ == "__main__":
    main()
