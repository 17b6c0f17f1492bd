"""The most memory that a step takes while it runs, beyond what is held before it."""

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from resnet.errors import InputError
from resnet.runtime.machine import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_memory

MEGABYTE = 1e6
M_MMAP_THRESHOLD = -3  # of mallopt(3)


def working_memory(step: Callable[[], Any]) -> float:
    """MB that the process (on a GPU: the device) grows by during one call of a step that is warm."""
    step()
    step()
    if jax.default_backend() != "cpu":
        return _on_device(step)
    status = Path("/proc/self/status")
    if not status.exists():
        raise InputError("the memory of a step is read from Linux's /proc; leave out --parts=memory")
    with _given_back():
        step()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # proc(5): resets the peak
        before = _kilobytes(status, "VmRSS")
        step()
        return (_kilobytes(status, "VmHWM") - before) * 1024 / MEGABYTE


@contextlib.contextmanager
def _given_back() -> Iterator[None]:
    """Memory that is freed goes back, as by default: pages kept for later would hide what a step needs."""
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, default in ((M_MMAP_MAX, 65536), (M_TRIM_THRESHOLD, 1 << 17), (M_MMAP_THRESHOLD, 1 << 17)):
        mallopt(parameter, default)
    try:
        yield
    finally:
        keep_memory()


def _kilobytes(status: Path, name: str) -> int:
    line = next(line for line in status.read_text("ascii").splitlines() if line.startswith(f"{name}:"))
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
