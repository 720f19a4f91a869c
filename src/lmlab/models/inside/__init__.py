"""What models, and those that run them, need of torch and of the machine; no config names it."""
