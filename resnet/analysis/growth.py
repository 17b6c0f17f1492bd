"""Growth per block, exponential or polynomial, from the increments of a logarithm.

A line through the logarithm itself would be fitted to a random walk: its residuals are no sample of
anything, and its interval far too narrow. The increments of equal blocks are nearly independent. Those
of the first quarter of the blocks are left out: there the scale at which a net begins still tells.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.special

CONFIDENCE = 0.95
NORMAL = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
"""1.96: the standard errors between the middle and the end of a 95 % interval of a normal number."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (Student's t) over `n` increments."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.low == self.high == self.value:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def holds(self, value: float) -> bool:
        """Whether `value` lies in the interval."""
        return self.low <= value <= self.high


def mean_of(
    values: Sequence[float] | np.ndarray, least: float = -math.inf, most: float = math.inf
) -> Estimate | None:
    """The mean of independent values, its interval cut where no value can lie: below `least`, above `most`.

    None below two values, or where one is not finite.
    """
    found = np.asarray(values, np.float64)
    if len(found) < 2 or not np.isfinite(found).all():
        return None
    mean, half = found.mean(), _half_width(found.std(ddof=1) / math.sqrt(len(found)), len(found) - 1)
    return Estimate(float(mean), float(max(mean - half, least)), float(min(mean + half, most)), len(found))


def mean_factor(logs: Sequence[float] | np.ndarray) -> Estimate | None:
    """The geometric mean of independent factors, given by their logarithms, with its interval."""
    return exp_of(mean_of(logs))


def exp_of(found: Estimate | None, times: float = 1.0) -> Estimate | None:
    """e to the power of `times` an estimate: a factor from its logarithm."""
    if found is None:
        return None
    value, low, high = (math.exp(times * each) for each in (found.value, found.low, found.high))
    return Estimate(value, low, high, found.n)


def slope_of(x: Sequence[float], y: Sequence[Estimate]) -> Estimate:
    """The slope of the line through independent estimates at the places x, each weighted by its interval.

    Its interval is what theirs make of it, and wider by the Birge ratio where they lie further from the line
    than their intervals let expect. (Particle Data Group, Review of Particle Physics, introduction, 5.2.2)
    """
    places, values = np.array(x, np.float64), np.array([each.value for each in y])
    weights = np.array([((each.high - each.low) / 2) ** -2.0 for each in y])
    apart = places - (weights * places).sum() / weights.sum()
    spread = (weights * apart**2).sum()
    slope = (weights * apart * values).sum() / spread
    off = values - (weights * values).sum() / weights.sum() - slope * apart
    birge = NORMAL * math.sqrt((weights * off**2).sum() / max(len(y) - 2, 1))
    half = max(1.0, birge) * spread**-0.5
    return Estimate(float(slope), float(slope - half), float(slope + half), len(y))


def growth_per_block(increments: np.ndarray, blocks: np.ndarray) -> Estimate | None:
    """The factor exp(mean increment) of blocks numbered from 1; None below two finite increments."""
    return exp_of(mean_of(increments[np.isfinite(increments) & _settled(blocks)]))


def power_of_depth(increments: np.ndarray, blocks: np.ndarray) -> Estimate | None:
    """The exponent p of growth as l^p, l = 1, 2, …: increments on log((l + 1) / l), without intercept."""
    kept = np.isfinite(increments) & _settled(blocks)
    y, x = increments[kept], np.log1p(1 / blocks[kept])
    if len(y) < 2:
        return None
    slope = (x * y).sum() / (x * x).sum()
    error = math.sqrt(((y - slope * x) ** 2).sum() / (len(y) - 1) / (x * x).sum())
    half = _half_width(error, len(y) - 1)
    return Estimate(float(slope), float(slope - half), float(slope + half), len(y))


def _settled(blocks: np.ndarray) -> np.ndarray:
    return blocks > blocks.max(initial=0) / 4


def _half_width(error: float, freedom: int) -> float:
    return float(scipy.special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
