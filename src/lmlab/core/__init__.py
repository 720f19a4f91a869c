"""What the commands do, a function each, with a config that has been checked."""
