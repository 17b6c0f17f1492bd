"""Interleaved timing: A B A B … in one run, so that what the machine does meanwhile hits all alike."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

LEAST_ROUNDS = 3


def interleave(steps: Mapping[str, Callable[[], Any]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of each call of each step, one call of all in turn, after two of each that do not count.

    At most `rounds`, and no further round after `seconds`, but never fewer than three.
    """
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    for i in range(rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begun)
        if time.perf_counter() > end and i + 1 >= LEAST_ROUNDS:
            break
    return times


def compared(values: Mapping[str, list[float]], reference: str, unit: str) -> dict[str, Any]:
    """Medians in `unit`, and of each round's ratio to the reference its quartiles and median."""
    ratios = {
        name: quartiles([a / b for a, b in zip(series, values[reference], strict=True)])
        for name, series in values.items()
        if name != reference
    }
    return {
        "unit": unit,
        "rounds": len(values[reference]),
        "reference": reference,
        "medians": {name: statistics.median(series) for name, series in values.items()},
        "ratios": ratios,
    }


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive")


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Notes the share of the processors' time that other processes took meanwhile, where Linux tells."""
    noted: dict[str, float] = {}
    begun, busy, own = time.perf_counter(), _busy_seconds(), sum(os.times()[:4])
    yield noted
    if busy is not None:
        others = (_busy_seconds() or 0.0) - busy - (sum(os.times()[:4]) - own)
        available = (time.perf_counter() - begun) * (os.cpu_count() or 1)
        noted["others"] = round(max(0.0, others / available), 3)


def _busy_seconds() -> float | None:
    """Seconds that all processors were busy, or taken away, since the machine started (proc(5))."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    first = path.read_text("ascii").splitlines()[0]
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, first.split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
