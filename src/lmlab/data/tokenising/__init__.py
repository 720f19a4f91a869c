"""A text to ids on disk: on all cores, and so that a killed process's work is gone on with."""
