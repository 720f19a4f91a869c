"""What is typed, or said from Python: composed by Hydra, swept, explained where it is refused."""
