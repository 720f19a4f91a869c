"""python scripts/generate.py: see conf/generate.yaml, or --help."""

from lmlab.cli import generate

if __name__ == "__main__":
    generate()
