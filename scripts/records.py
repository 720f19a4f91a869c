"""python scripts/records.py 3min experiment=…: see --help and docs/records.md."""

from pathlib import Path

from lmlab.sweeps.records.records_command import main

if __name__ == "__main__":
    main(docs=Path(__file__).parents[1] / "docs")
