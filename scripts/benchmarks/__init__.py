"""`scripts/bench.py`: what this lab costs beside the loops one would write by hand."""
