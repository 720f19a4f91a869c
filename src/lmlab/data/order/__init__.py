"""In which order windows are trained on."""
