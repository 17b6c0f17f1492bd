"""A number held against what is expected of it: met, met within a stated tolerance, or missed."""

import dataclasses
import math
from typing import Literal

from resnet.analysis.growth import Estimate

YES, WITHIN, NO = "yes", "within tolerance", "no"
ROUNDING = 1e-4
"""Relative difference that float32 makes over tens of blocks: an exact number is equal up to it."""
Holds = Literal["yes", "within tolerance", "no"]
"""The interval of the measurement meets the law; it misses it by no more than the tolerance; neither."""


@dataclasses.dataclass(frozen=True)
class Law:
    """What is expected of a number: equal to, at most or at least `value`."""

    kind: Literal["equal", "at most", "at least"]
    value: float
    tolerance: float = 1.0
    """Factor by which the interval may miss the value, since nets and batches are finite."""

    def __str__(self) -> str:
        sign = {"equal": "", "at most": "≤ ", "at least": "≥ "}[self.kind]
        return f"{sign}{self.value:.4g}"

    def judge(self, found: Estimate | None) -> Holds:
        """The verdict on a measurement; NO where there is none, or none that is finite."""
        if found is None or not all(map(math.isfinite, (found.low, found.high))):
            return NO
        if self._meets(found.low, found.high):
            return YES
        near = self.tolerance
        # A bound may be missed on one side alone; what is to be equal, on either.
        low = found.low * near if self.kind == "at least" else found.low / near
        high = found.high / near if self.kind == "at most" else found.high * near
        return WITHIN if self._meets(low, high) else NO

    def _meets(self, low: float, high: float) -> bool:
        slack = ROUNDING * abs(self.value)
        above, below = high >= self.value - slack, low <= self.value + slack
        met = {"at least": low >= self.value, "at most": high <= self.value}.get(self.kind, above and below)
        return bool(met)  # NumPy has a type of its own for what it compared


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured number, its name, and the law it is held against."""

    what: str
    found: Estimate | None
    law: Law

    @property
    def holds(self) -> Holds:
        return self.law.judge(self.found)

    def __str__(self) -> str:
        found = "nothing measured" if self.found is None else str(self.found)
        allowed = f", within a factor of {self.law.tolerance:g}" * (self.law.tolerance > 1)
        return f"{self.what}: {found}, expected {self.law}{allowed}: {self.holds}"


def check(what: str, found: Estimate | float | None, law: Law) -> Check:
    """The check of an estimate, or of a number that has no interval: an exact count, a size, a single run."""
    exact = isinstance(found, int | float)
    return Check(what, Estimate(float(found), float(found), float(found), 1) if exact else found, law)


def all_of(checks: list[Check]) -> Holds:
    """The verdict on several checks together: the least of theirs; NO where nothing was checked."""
    found = [each.holds for each in checks]
    return NO if NO in found or not found else WITHIN if WITHIN in found else YES
