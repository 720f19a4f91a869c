"""What is kept of a launch while it lasts: what it plans, and what its jobs say."""
