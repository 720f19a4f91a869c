"""The tab Sweeps in TensorBoard: what lies below the log folder, live, and nothing to change."""
