"""What TensorBoard's own tabs are given by the lab's board: its data, and means over seeds."""
