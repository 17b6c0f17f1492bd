"""A training step and its loop: losses, optimisers, schedules, the step, evaluation, the loop."""
