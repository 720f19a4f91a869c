"""What is meant for many passes over little text: each a callback or a loss of its own."""
