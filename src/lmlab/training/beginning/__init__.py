"""Where a run begins: anew, where it was, or at the end of another."""
