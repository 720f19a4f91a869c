"""Is it better, and beyond the noise? Numbers, no drawing."""
