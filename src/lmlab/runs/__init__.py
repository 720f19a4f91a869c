"""Run directories, their records and checkpoints."""
