"""The most memory that a step takes while it runs, beyond what is held before it."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from resnet.errors import InputError

MEGABYTE = 1e6


def working_memory(step: Callable[[], Any]) -> float:
    """MB that the process (on a GPU: the device) grows by during one call of a step that is warm."""
    step()
    step()
    if jax.default_backend() != "cpu":
        return _on_device(step)
    status = Path("/proc/self/status")
    if not status.exists():
        raise InputError("the memory of a step is read from Linux's /proc; leave out --parts=memory")
    # Pages that malloc keeps for later would hide what a step needs.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
    before = _kilobytes(status, "VmRSS")
    step()
    return (_kilobytes(status, "VmHWM") - before) * 1024 / MEGABYTE


def _kilobytes(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def _on_device(step: Callable[[], Any]) -> float:
    """Of ours as the compiler has planned it, of PyTorch's as its allocator has counted it."""
    if hasattr(step, "compiled"):
        plan = step.compiled.memory_analysis()  # type: ignore[attr-defined]
        return plan.temp_size_in_bytes / MEGABYTE
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / MEGABYTE
