"""The processors that this process may use."""

import os


def processors() -> int:
    """Processors that this process may run on, which a container or a scheduler may have limited."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
