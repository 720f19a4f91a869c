"""python scripts/train.py: see conf/train.yaml, or --help."""

from lmlab.cli import train

if __name__ == "__main__":
    train()
