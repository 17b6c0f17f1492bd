"""Metrics over a whole split: exactly its n examples, whatever the batch."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from resnet.data.batches import padded_batches
from resnet.data.datasets import Split

# Batches on their way to the device at a time: enough that it never waits, and few to wait for.
AHEAD = 2


class Halted(Exception):
    """An evaluation was told to end before its time."""


def evaluate(
    variables: dict[str, Any],
    split: Split,
    *,
    eval_step: Callable,
    batch_size: int,
    halt: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]]:
    """For each seed of `variables`: means of loss and scores over `split`, and n; [] for an empty split.

    Raises Halted within a few batches of when `halt` turns true.
    """
    names = ("image", "label", "mask")
    sums = []
    for batch in padded_batches(split, batch_size):
        sums.append(eval_step(variables, dict(zip(names, batch, strict=True))))
        if halt():
            raise Halted
        if len(sums) > AHEAD:
            jax.block_until_ready(sums[-1 - AHEAD])
    if not sums:
        return []
    # Fetched together, so that the device never waits for the host; added in float64.
    fetched = jax.device_get(sums)
    totals = {name: np.asarray([each[name] for each in fetched], np.float64).sum(0) for name in fetched[0]}
    counts = totals.pop("n")
    return [
        {name: float(total[seed] / n) for name, total in totals.items()} | {"n": int(n)}
        for seed, n in enumerate(counts)
    ]


def score(metrics: Mapping[str, float | None]) -> float:
    """What selects the best checkpoint on validation, higher is better: top1, or minus the mae.

    Minus infinity where that is not finite.
    """
    value = metrics["top1"] if "top1" in metrics else metrics["mae"]
    if value is None or not math.isfinite(value):  # None: read back from JSON
        return -math.inf
    return value if "top1" in metrics else -value
