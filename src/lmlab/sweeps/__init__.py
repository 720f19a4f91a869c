"""Sweeps: many runs, launched by Hydra."""
