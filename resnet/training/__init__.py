"""From data and a model to trained weights: losses, steps, the loop, checkpoints, records."""
