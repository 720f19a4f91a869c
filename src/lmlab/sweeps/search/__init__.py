"""Optuna's studies over resumable runs."""
