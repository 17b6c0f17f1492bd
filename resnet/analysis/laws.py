"""A number held against what is expected of it: met, met within a stated tolerance, undecided, or missed."""

import dataclasses
import math
from typing import Literal

from resnet.analysis.growth import Estimate

YES, WITHIN, UNDECIDED, NO = "yes", "within tolerance", "undecided", "no"
ROUNDING = 1e-4
"""Relative difference that float32 makes over tens of blocks: an exact number is equal up to it."""
Holds = Literal["yes", "within tolerance", "undecided", "no"]
"""All of the measurement's interval meets the law; all of it does with the tolerance; it holds numbers that
do and numbers that do not: more seeds would tell; none of it does."""
LEAST_FIRST: tuple[Holds, ...] = (NO, UNDECIDED, WITHIN, YES)


@dataclasses.dataclass(frozen=True)
class Law:
    """What is expected of a number, by kind: that it is `value`; at most or at least that; no further than
    `value` from 0; or for a factor, that it changes something at most, or at least, `value`-fold."""

    kind: Literal["equal", "at most", "at least", "within", "within factor", "beyond factor"]
    value: float
    tolerance: float = 1.0
    """Factor by which a number may miss the law, since nets and batches are finite."""

    def __str__(self) -> str:
        v = f"{self.value:.4g}"
        return {
            "equal": v, "at least": f"≥ {v}", "at most": f"≤ {v}", "within": f"± {v}",
            "within factor": f"from 1/{v} to {v}", "beyond factor": f"below 1/{v} or above {v}",
        }[self.kind]  # fmt: skip

    def judge(self, found: Estimate | None) -> Holds:
        """The verdict on a measurement; NO where there is none, or none that is finite.

        An interval too wide to decide is UNDECIDED, whatever its middle: all of it must lie where the law,
        or the tolerance, has it. Equal is a number whose interval lies there, and holds the value.
        """
        if found is None or not all(map(math.isfinite, (found.low, found.high))):
            return NO
        low, high = found.low, found.high
        allowed, tolerated = self._allowed, [self._wider(*span) for span in self._allowed]
        if not _lies_in(tolerated, low, high):
            return UNDECIDED if _touches(tolerated, low, high) else NO
        met = (_touches if self.kind == "equal" else _lies_in)(allowed, low, high)
        return YES if met else WITHIN

    @property
    def _allowed(self) -> list[tuple[float, float]]:
        """Spans of the numbers that meet the law; an exact one is equal up to rounding."""
        v, slack = self.value, ROUNDING * abs(self.value)
        match self.kind:
            case "equal":
                return [(v - slack, v + slack)]
            case "at least":
                return [(v, math.inf)]
            case "at most":
                return [(-math.inf, v)]
            case "within":
                return [(-v, v)]
            case "within factor":
                return [(1 / v, v)]
        return [(-math.inf, 1 / v), (v, math.inf)]

    def _wider(self, low: float, high: float) -> tuple[float, float]:
        """The span with the tolerance at both ends."""
        f = self.tolerance
        return (low / f if low > 0 else low * f, high * f if high > 0 else high / f)


def _lies_in(spans: list[tuple[float, float]], low: float, high: float) -> bool:
    """Whether all numbers of an interval are in one of the spans."""
    return any(least <= low and high <= most for least, most in spans)


def _touches(spans: list[tuple[float, float]], low: float, high: float) -> bool:
    """Whether some number of an interval is in one of the spans."""
    return any(low <= most and high >= least for least, most in spans)


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured number, its name, and the law it is held against."""

    what: str
    found: Estimate | None
    law: Law

    @property
    def holds(self) -> Holds:
        return self.law.judge(self.found)

    @property
    def expected(self) -> str:
        """The law and its tolerance in words."""
        return f"{self.law}" + f", within a factor of {self.law.tolerance:g}" * (self.law.tolerance > 1)

    def __str__(self) -> str:
        found = "nothing measured" if self.found is None else str(self.found)
        return f"{self.what}: {found}, expected {self.expected}: {self.holds}"


def check(what: str, found: Estimate | float | None, law: Law) -> Check:
    """The check of an estimate, or of a number that has no interval: an exact count, a size, a single run."""
    exact = isinstance(found, int | float)
    return Check(what, Estimate(float(found), float(found), float(found), 1) if exact else found, law)


def all_of(checks: list[Check]) -> Holds:
    """The verdict on several checks together: the least of theirs; NO where nothing was checked."""
    found = {each.holds for each in checks}
    return next(each for each in LEAST_FIRST if each in found or not found)
