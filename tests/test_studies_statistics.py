"""Statistics against values worked out by hand, by brute force and by simulation."""

import itertools

import numpy as np
import pytest
import scipy.stats

from resnet.studies.pages.statistics import (
    compare,
    correlation,
    detectable,
    holm,
    sign_flip_p,
    smallest_p,
    summarize,
    t_test,
    unpaired,
)

IMAGE = 100 / 360  # points of one test image of digits


def test_a_summary_is_of_the_values():
    summary = summarize([90.0, 92.0, 97.0])
    assert (summary.n, summary.mean, summary.median) == (3, 93.0, 92.0)
    assert summary.std == pytest.approx(np.sqrt(13))
    assert summarize([1.0]).std is None and summarize([]) is None


@pytest.mark.parametrize("n", (2, 5, 8))
def test_the_sign_flip_test_is_exact(n):
    differences = np.random.default_rng(n).normal(0.5, 1, n)
    flips = [abs(np.mean(np.multiply(s, differences))) for s in itertools.product((-1, 1), repeat=n)]
    expected = np.mean([flip >= abs(differences.mean()) - 1e-12 for flip in flips])
    assert sign_flip_p(differences) == pytest.approx(expected)
    assert sign_flip_p(np.full(n, 3.0)) == smallest_p(n) == 2 / 2**n


@pytest.mark.parametrize(
    ("images", "p"),
    [((0, 2, 1, -1, -1), 1.0), ((4, 0, -4, 6, -3), 0.875), ((0, 0, 0), 1.0), ((1, 1, 1, 1, -1), 0.375)],
)
def test_ties_count_in_the_sign_flip_test(images, p):
    """Of accuracies: differences of whole images, which floats do not hold exactly."""
    own = np.array([(340 + d) / 360 for d in images]) * 100
    assert sign_flip_p(own - 340 / 360 * 100) == p


@pytest.mark.thorough
@pytest.mark.parametrize("n", (3, 4, 5, 10))
def test_the_interval_holds_the_mean_in_95_of_100_samples(n):
    random = np.random.default_rng(n)
    held = [low <= 1 <= high for low, high, _ in (t_test(random.normal(1, 2, n)) for _ in range(800))]
    assert abs(np.mean(held) - 0.95) < 0.024  # three standard errors


@pytest.mark.thorough
def test_the_unpaired_interval_holds_the_difference_in_95_of_100_samples():
    random = np.random.default_rng(0)
    found = [unpaired(random.normal(3, 2, 5), random.normal(1, 2, 5)) for _ in range(800)]
    assert 0.935 < np.mean([low <= 2 <= high for low, high in found]) < 0.975


def test_the_unpaired_interval_is_welchs():
    """Worked by hand for unequal n and deviation: variances 16 and 0.5 of 3 and 5 values."""
    squares = 16 / 3, 0.5 / 5
    freedom = sum(squares) ** 2 / (squares[0] ** 2 / 2 + squares[1] ** 2 / 4)  # 2.075; pooled, it is 6
    half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(sum(squares))
    found = unpaired(np.array([10.0, 14, 18]), np.array([1.0, 2, 3, 2, 2]))
    assert found == pytest.approx((12 - half, 12 + half))
    # Of as many values, the deviations alone tell the two apart.
    own, others = {0: 10.0, 1: 14.0, 2: 18.0}, {0: 1.0, 1: 2.0, 2: 3.0}
    half = scipy.stats.t.ppf(0.975, 2 * 17**2 / (16**2 + 1)) * np.sqrt(17 / 3)
    comparison = compare(own, others)
    assert (comparison.unpaired_low, comparison.unpaired_high) == pytest.approx((12 - half, 12 + half))


def test_holm_keeps_a_ledger_of_nothing_at_five_per_cent():
    """28 rows without an effect: at most one ledger in 20 finds one, where 3 of 4 would without Holm."""
    random = np.random.default_rng(0)
    ps = scipy.stats.ttest_1samp(random.normal(0, 1, (400, 28, 5)), 0, axis=2).pvalue
    corrected = [min(holm(row)) < 0.05 for row in ps.tolist()]
    assert np.mean(corrected) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(ps.min(axis=1) < 0.05) > 0.6


def test_what_n_could_have_shown_is_shown_in_80_of_100_studies():
    random = np.random.default_rng(0)
    sample = random.normal(0, 2, 5)
    shown = detectable(sample)
    studies = random.normal(shown, sample.std(ddof=1), (4000, 5))
    power = np.mean(scipy.stats.ttest_1samp(studies, 0, axis=1).pvalue < 0.05)
    assert power == pytest.approx(0.8, abs=0.02)
    assert detectable(np.tile(sample, 4)) < shown / 2


def test_only_common_seeds_are_paired():
    comparison = compare({0: 5.0, 1: 7.0, 3: 1.0}, {0: 4.0, 1: 5.0, 2: 0.0})
    assert (comparison.n, comparison.mean, comparison.p_signs) == (2, 1.5, 0.5)
    assert comparison.low < 1.5 < comparison.high and comparison.correlation is None
    alone = compare({0: 5.0}, {0: 4.0})
    assert (alone.n, alone.mean, alone.low, alone.p) == (1, 1.0, None, None)
    assert compare({0: 1.0}, {1: 1.0}) is None


def test_a_common_noise_cancels_in_the_pairs_alone():
    noise = np.random.default_rng(0).normal(0, 10, 8)
    jitter = np.random.default_rng(1).normal(0, 0.1, 8)
    comparison = compare(dict(enumerate(noise + 1 + jitter)), dict(enumerate(noise)))
    assert 0.8 < comparison.low < comparison.high < 1.2 and comparison.correlation > 0.99
    assert comparison.unpaired_low < -5 and comparison.unpaired_high > 5


def test_differences_that_are_all_equal_tell_of_no_spread():
    comparison = compare({0: 90.1, 1: 95.3, 2: 91.7}, {0: 89.1, 1: 94.3, 2: 90.7})
    assert comparison.mean == pytest.approx(1) and comparison.p_signs == 0.25
    assert (comparison.low, comparison.p, comparison.detectable) == (None, None, None)
    assert correlation(np.ones(3), np.arange(3.0)) is None


def test_the_p_value_and_the_interval_agree():
    for shift in (0.5, 1.0, 2.0):
        low, _, p = t_test(np.random.default_rng(1).normal(shift, 1, 5))
        assert (low > 0) == (p < 0.05)


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
