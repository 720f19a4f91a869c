"""The tab's pages of single runs: one, or a few side by side."""
