"""Jobs: their directories, how they are given out, and who runs them."""
