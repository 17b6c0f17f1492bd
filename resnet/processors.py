"""The processors that this process may use."""

import os


def processors() -> int:
    """Processors that this process may run on, which a container or a scheduler may have limited."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def shares(count: int) -> list[set[int]]:
    """The processors in `count` shares of equal size; empty ones where there are too few, or not on Linux."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = sorted(affinity(0)) if affinity else []
    size = len(cores) // count
    return [set(cores[i * size : (i + 1) * size]) for i in range(count)]
