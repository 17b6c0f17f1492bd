"""The processors that this process may use."""

import os


def processors() -> int:
    """Processors that this process may run on, which a container or a scheduler may have limited."""
    return len(_numbers()) or os.cpu_count() or 1


def shares(count: int) -> list[set[int]]:
    """The processors in `count` shares of equal size; empty ones where there are too few, or not on Linux."""
    cores = _numbers()
    size = len(cores) // count
    return [set(cores[i * size : (i + 1) * size]) for i in range(count)]


def _numbers() -> list[int]:
    """The numbers of those processors; empty where the system does not tell, as on macOS."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else []
