"""A sweep while it runs: how far it is, in a terminal and for whoever else looks on."""
