"""The science of a step and its loop: losses, optimisers, schedules, the step, evaluation, the loop."""
