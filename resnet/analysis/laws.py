"""A number held against what is expected of it: met, met within a stated tolerance, undecided, or missed."""

import dataclasses
import math
from typing import Literal

from resnet.analysis.growth import Estimate

YES, WITHIN, UNDECIDED, NO = "yes", "within tolerance", "undecided", "no"
ROUNDING = 1e-4
"""Relative difference that float32 makes over tens of blocks: an exact number is equal up to it."""
Holds = Literal["yes", "within tolerance", "undecided", "no"]
"""The interval of the measurement meets the law; it misses it by no more than the tolerance; it holds values
that meet the law and values that do not; all of it misses the law."""
LEAST_FIRST: tuple[Holds, ...] = (NO, UNDECIDED, WITHIN, YES)


@dataclasses.dataclass(frozen=True)
class Law:
    """What is expected of a number: equal to, at most or at least `value`, or no further than it from 0."""

    kind: Literal["equal", "at most", "at least", "within"]
    value: float
    tolerance: float = 1.0
    """Factor by which the interval may miss the value, since nets and batches are finite."""

    def __str__(self) -> str:
        sign = {"equal": "", "at most": "≤ ", "at least": "≥ ", "within": "± "}[self.kind]
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
        if self._meets(low, high):
            return WITHIN
        return UNDECIDED if self._touches(found.low, found.high) else NO

    @property
    def _allowed(self) -> tuple[float, float]:
        """The least and the greatest number that meet the law; an exact one is equal up to rounding."""
        slack = ROUNDING * abs(self.value)
        return {
            "equal": (self.value - slack, self.value + slack),
            "at least": (self.value, math.inf),
            "at most": (-math.inf, self.value),
            "within": (-self.value, self.value),
        }[self.kind]

    def _touches(self, low: float, high: float) -> bool:
        """Whether some number of an interval meets the law."""
        least, most = self._allowed
        return bool(low <= most and high >= least)  # NumPy has a type of its own for what it compared

    def _meets(self, low: float, high: float) -> bool:
        """Whether an interval meets the law: all of its numbers do, or one of them is the equal one."""
        least, most = self._allowed
        return self._touches(low, high) if self.kind == "equal" else bool(least <= low and high <= most)


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
    found = {each.holds for each in checks}
    return next(each for each in LEAST_FIRST if each in found or not found)
