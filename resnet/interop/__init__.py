"""In and out: weights that others trained, and ours for others to use."""
