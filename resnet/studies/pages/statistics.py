"""Comparisons over seeds: t intervals, the exact sign-flip test, Holm, and what n could have shown."""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special
import scipy.stats

EXACT_UP_TO = 2**16  # sign patterns; past 16 pairs as many are drawn at random
CONFIDENCE = 0.95
POWER = 0.8
# Means of the same differences in another order of signs differ in the last bits: they are ties.
TIE = 9  # decimals of the largest difference


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
    """An arm minus its reference, over the seeds that both have.

    What needs a spread is None for one pair, and where all differences are equal: these tell of none.
    """

    n: int
    mean: float
    low: float | None
    """Ends of the 95 % interval of the mean of pairs (Student's t)."""
    high: float | None
    p: float | None
    """Of the paired t test, two-sided: below 0.05 where the interval leaves out zero."""
    p_signs: float | None
    """Of the exact test that signs are exchangeable, which needs no normality; at least 2 / 2**n."""
    unpaired_low: float | None
    """Ends of the 95 % interval of the difference of two independent means (Welch 1947)."""
    unpaired_high: float | None
    correlation: float | None
    """Of the pairs: pairing makes the interval narrower as far as it is above zero."""
    detectable: float | None
    """The true difference that so many pairs of this spread show with probability 0.8."""


def summarize(values: Sequence[float]) -> Summary | None:
    """None without values."""
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(len(values), float(np.mean(values)), std, float(np.median(values)))


def compare(values: Mapping[int, float], reference: Mapping[int, float]) -> Comparison | None:
    """The difference by seed; None without a common seed."""
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    own, others = (np.array([each[seed] for seed in seeds]) for each in (values, reference))
    differences = own - others
    low, high, p = t_test(differences)
    unpaired_low, unpaired_high = unpaired(own, others)
    return Comparison(
        n=len(seeds),
        mean=float(differences.mean()),
        low=low,
        high=high,
        p=p,
        p_signs=sign_flip_p(differences) if len(seeds) > 1 else None,
        unpaired_low=unpaired_low,
        unpaired_high=unpaired_high,
        correlation=correlation(own, others),
        detectable=detectable(differences),
    )


def t_test(differences: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """(low, high, p): the 95 % interval of the mean, and the p-value of a mean of zero (Student 1908)."""
    if _no_spread(differences):
        return None, None, None
    test: Any = scipy.stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high), float(test.pvalue)


def unpaired(values: np.ndarray, reference: np.ndarray) -> tuple[float | None, float | None]:
    """The 95 % interval of the difference of means as if no seed were common."""
    if _no_spread(values) and _no_spread(reference):
        return None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of one side that does not vary, which Welch allows
        test: Any = scipy.stats.ttest_ind(values, reference, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


def correlation(values: np.ndarray, reference: np.ndarray) -> float | None:
    """Pearson's, of the pairs; None below three pairs, or where one side does not vary."""
    if len(values) < 3 or _no_spread(values) or _no_spread(reference):
        return None
    return float(np.corrcoef(values, reference)[0, 1])


def detectable(differences: np.ndarray) -> float | None:
    """The true mean that the paired t test would tell from zero in 80 of 100 studies of this n and spread."""
    if _no_spread(differences):
        return None
    n = len(differences)
    critical = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    shift = scipy.special.nctdtrinc(n - 1, 1 - POWER, critical)  # in standard errors
    return float(shift * differences.std(ddof=1) / math.sqrt(n))


def sign_flip_p(differences: np.ndarray) -> float:
    """Share of all 2^n sign patterns whose mean is at least as far from 0 (Fisher 1935); ties count."""
    largest = np.abs(differences).max()
    if largest == 0:
        return 1.0
    test = scipy.stats.permutation_test(
        (differences / largest,),
        lambda x, axis: np.round(np.abs(np.mean(x, axis=axis)), TIE),
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


def _no_spread(values: np.ndarray) -> bool:
    """Whether there is nothing to estimate a deviation from, up to rounding."""
    return len(values) < 2 or bool(np.ptp(values) <= 10.0**-TIE * max(1.0, np.abs(values).max()))
