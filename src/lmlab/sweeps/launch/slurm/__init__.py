"""Jobs of a sweep on the machines of a SLURM cluster."""
