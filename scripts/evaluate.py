"""python scripts/evaluate.py: see conf/evaluate.yaml, or --help."""

from lmlab.cli import evaluate

if __name__ == "__main__":
    evaluate()
