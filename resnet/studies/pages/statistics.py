"""Paired comparisons over seeds: mean difference, bootstrap interval, exact sign-flip test, Holm."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats

RESAMPLES = 10_000  # of the bootstrap
EXACT_UP_TO = 2**16  # sign patterns; past 16 pairs as many are drawn at random
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Summary:
    """Values of one arm over its seeds."""

    n: int
    mean: float
    std: float | None
    """Sample standard deviation; None for one seed."""
    median: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An arm minus its reference, over the seeds that both have."""

    n: int
    mean: float
    low: float | None
    """Lower end of the 95 % interval; None for one pair."""
    high: float | None
    p: float | None
    """Of the two-sided test that signs are exchangeable; at least 2 / 2**n."""


def summarize(values: Sequence[float]) -> Summary | None:
    """None without values."""
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(len(values), float(np.mean(values)), std, float(np.median(values)))


def compare(values: Mapping[int, float], reference: Mapping[int, float]) -> Comparison | None:
    """The paired difference by seed; None without a common seed."""
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    differences = np.array([values[seed] - reference[seed] for seed in seeds])
    mean = float(differences.mean())
    if len(seeds) == 1:
        return Comparison(1, mean, None, None, None)
    low, high = interval(differences)
    return Comparison(len(seeds), mean, low, high, sign_flip_p(differences))


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap of the mean (Efron 1979); always the same draws."""
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    found = scipy.stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip_p(differences: np.ndarray) -> float:
    """Share of all 2^n sign patterns whose mean is at least as far from 0 (Fisher 1935)."""
    test = scipy.stats.permutation_test(
        (differences,),
        lambda x, axis: np.abs(np.mean(x, axis=axis)),
        permutation_type="samples",
        vectorized=True,
        n_resamples=EXACT_UP_TO,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def smallest_p(n: int) -> float:
    """What n pairs that all point one way give: no test of signs can say more."""
    return 2.0 ** (1 - n)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number (Holm 1979); None stays None."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    largest = -math.inf
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[i] = largest
    return corrected
