"""What verdicts rest on: means, factors and slopes with their intervals, and laws that judge them."""

import math

import numpy as np
import pytest

from resnet.analysis import theory
from resnet.analysis.growth import Estimate, exp_of, mean_factor, mean_of, slope_of
from resnet.analysis.laws import NO, UNDECIDED, WITHIN, YES, Law, all_of, check


def about(value, half=0.01):
    return Estimate(value, value - half, value + half, 30)


def spread(low, high):
    return Estimate((low + high) / 2, low, high, 30)


@pytest.mark.parametrize(
    ("law", "found", "holds"),
    [
        # What is equal has an interval within the tolerance, and the value in it.
        (Law("equal", 1.41, 1.2), about(1.4, 0.02), YES),
        (Law("equal", 1.2, 1.2), about(1.4, 0.02), WITHIN),
        (Law("equal", 1.2, 1.1), about(1.4, 0.02), NO),
        (Law("equal", 1.0), about(1.0, 1e-5), YES),
        (Law("equal", 0.0), about(0.0, 0.0), YES),
        (Law("equal", 0.0), about(1.0, 0.0), NO),
        # An interval too wide to decide is no verdict, whether or not it holds the value.
        (Law("equal", 1.0, 1.5), spread(0.2162, 2.683), UNDECIDED),
        (Law("equal", 1.0, 1.5), spread(1.27, 1.659), UNDECIDED),
        (Law("equal", 1.41), about(1.4, 0.02), UNDECIDED),
        (Law("equal", 1.2), about(1.4, 0.02), NO),
        # An interval that reaches beyond a bound neither meets it nor contradicts it.
        (Law("at least", 1.39), about(1.4, 0.02), UNDECIDED),
        (Law("at least", 1.43), about(1.4, 0.02), NO),
        (Law("at most", 1.39, 1.01), about(1.4, 0.02), UNDECIDED),
        (Law("at least", 1.39, 1.01), about(1.4, 0.02), WITHIN),
        (Law("at least", 1.38), about(1.4, 0.02), YES),
        (Law("at most", 1.5), about(1.4, 0.02), YES),
        (Law("at most", 1.3), about(1.4, 0.02), NO),
        (Law("within", 1.0), about(-0.5, 0.4), YES),
        (Law("within", 1.0), about(0.0, 1.2), UNDECIDED),
        (Law("within", 1.0), about(-1.5, 0.6), UNDECIDED),
        (Law("within", 1.0), about(-1.5, 0.4), NO),
        # Factors count in both directions.
        (Law("within factor", 10.0), spread(4.78, 6.187), YES),
        (Law("within factor", 10.0), spread(0.12, 0.2), YES),
        (Law("within factor", 10.0), spread(8.0, 12.0), UNDECIDED),
        (Law("within factor", 10.0), spread(0.01, 0.02), NO),
        (Law("within factor", 10.0), spread(11.0, 12.0), NO),
        (Law("beyond factor", 10.0), spread(11.0, 12.0), YES),
        (Law("beyond factor", 10.0), spread(1e-34, 2e-34), YES),
        (Law("beyond factor", 10.0), spread(0.01, 200.0), UNDECIDED),
        (Law("beyond factor", 10.0), spread(0.5, 2.0), NO),
        (Law("equal", 1.0), None, NO),
        (Law("at most", 1.0), Estimate(0.0, -math.inf, 0.5, 2), NO),
    ],
)
def test_a_law_has_four_verdicts(law, found, holds):
    assert law.judge(found) == holds


def test_a_law_of_factors_names_both_ends():
    assert str(Law("within factor", 10.0)) == "from 1/10 to 10"
    assert str(Law("beyond factor", 100.0)) == "below 1/100 or above 100"


def test_several_checks_hold_as_the_least_of_them():
    yes, within, no = (check("x", value, Law("equal", 1.0, 1.5)) for value in (1.0, 1.2, 2.0))
    assert [each.holds for each in (yes, within, no)] == [YES, WITHIN, NO]
    undecided = check("x", about(1.0, 0.5), Law("at least", 1.0))
    assert (all_of([yes, within]), all_of([yes, no, undecided]), all_of([])) == (WITHIN, NO, NO)
    assert all_of([yes, undecided, within]) == UNDECIDED
    assert str(within) == "x: 1.2, expected 1, within a factor of 1.5: within tolerance"


def test_a_rate_is_judged_at_the_depth_that_is_claimed():
    """5 % a block are a factor of 3.7 over 27 blocks."""
    rate = theory.Rate("equal", 1.467)
    assert rate.law().judge(rate.over_depth(about(1.402, 0.01))) == NO
    assert rate.law().judge(rate.over_depth(about(1.402, 0.05))) == UNDECIDED
    assert rate.law().judge(rate.over_depth(about(1.46, 0.001))) == WITHIN
    power = theory.Rate("power", 0.5)
    over = power.over_depth(about(0.5))
    assert over and over.value == pytest.approx(27**0.5)
    assert power.words(about(0.5)) == "(block number)^0.5 [0.49, 0.51]" and str(power) == "(block number)^0.5"


def test_an_interval_of_a_mean():
    found = mean_of([1.0, 2.0, 3.0])
    assert found and found.value == 2 and found.low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-4)
    assert mean_of([1.0]) is None and mean_of([1.0, math.nan]) is None
    cut = mean_of([0.0, 99.0], 0, 100)
    assert cut == Estimate(49.5, 0, 100, 2)


def test_factors_are_averaged_as_logarithms():
    """An interval of factors lies above 0, however far they scatter."""
    found = mean_factor(np.log([1.0, 100.0, 1e4]))
    assert found and found.value == pytest.approx(100) and 0 < found.low < 1e-2 and found.high > 1e5
    assert mean_factor([0.0]) is None and exp_of(None) is None


def test_a_slope_counts_each_number_by_its_interval():
    line = [about(0.3 - 0.1 * x, 0.01) for x in (0, 1, 2)]
    exact = slope_of((0, 1, 2), line)
    assert exact.value == pytest.approx(-0.1) and exact.high - exact.low == pytest.approx(2 * 0.01 / 2**0.5)
    # Numbers further off the line than their intervals widen that of the slope.
    bent = slope_of((0, 1, 2), [about(0.3), about(0.5), about(0.1)])
    assert bent.high - bent.low > 10 * (exact.high - exact.low)
    # A number that says little moves the line little, and one that says much turns it.
    assert slope_of((0, 1, 2, 3), [*line, about(9.0, 100.0)]).value == pytest.approx(-0.1, abs=1e-3)
    assert slope_of((0, 1, 2, 3), [*line, about(9.0, 0.001)]).value > 1
