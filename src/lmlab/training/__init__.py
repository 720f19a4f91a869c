"""Training: the rooms that know Lightning."""
