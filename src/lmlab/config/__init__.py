"""From typed words to a checked config, and what is made of it."""
