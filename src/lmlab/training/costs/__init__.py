"""What training takes: operations, counted and measured; tokens and time."""
