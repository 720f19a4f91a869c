"""What TensorBoard is given, and TensorBoard itself."""
