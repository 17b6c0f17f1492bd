"""Metrics over a whole split: exactly its n examples, whatever the batch."""

from collections.abc import Callable
from typing import Any

import jax

from resnet.data.batches import padded_batches
from resnet.data.datasets import Split


def evaluate(
    variables: dict[str, Any], split: Split, *, eval_step: Callable, batch_size: int
) -> dict[str, float] | None:
    """Means of loss and scores over `split`, and n; None for an empty split."""
    names = ("image", "label", "mask")
    batches = padded_batches(split, batch_size)
    sums = [eval_step(variables, dict(zip(names, batch, strict=True))) for batch in batches]
    if not sums:
        return None
    # Fetched together, so that the device never waits for the host; added in float64.
    fetched = jax.device_get(sums)
    totals = {name: sum(float(each[name]) for each in fetched) for name in fetched[0]}
    n = totals.pop("n")
    return {name: total / n for name, total in totals.items()} | {"n": int(n)}


def score(metrics: dict[str, float]) -> float:
    """What selects the best checkpoint on validation, higher is better: top1, or minus the mae."""
    return metrics["top1"] if "top1" in metrics else -metrics["mae"]
