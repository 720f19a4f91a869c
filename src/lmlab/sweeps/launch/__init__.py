"""Jobs: their directories, their journal, and who runs them."""
