"""The one table of a sweep, from its run directories."""
