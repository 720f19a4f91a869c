"""python scripts/export.py: see conf/export.yaml, or --help."""

from lmlab.cli import export

if __name__ == "__main__":
    export()
