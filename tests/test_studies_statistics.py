"""Statistics against values worked out by hand or by brute force."""

import itertools

import numpy as np
import pytest

from resnet.studies.pages.statistics import compare, holm, interval, sign_flip_p, smallest_p, summarize


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


def test_the_interval_holds_the_mean_in_about_95_of_100_samples():
    random = np.random.default_rng(0)
    held = [low <= 1 <= high for low, high in (interval(random.normal(1, 2, 40)) for _ in range(60))]
    assert 0.85 <= np.mean(held) <= 1
    assert interval(np.array([2.0, 2.0])) == (2.0, 2.0)


def test_only_common_seeds_are_paired():
    comparison = compare({0: 5.0, 1: 7.0, 3: 1.0}, {0: 4.0, 1: 5.0, 2: 0.0})
    assert (comparison.n, comparison.mean, comparison.low, comparison.high) == (2, 1.5, 1.0, 2.0)
    assert comparison.p == 0.5
    alone = compare({0: 5.0}, {0: 4.0})
    assert (alone.n, alone.mean, alone.p) == (1, 1.0, None) and compare({0: 1.0}, {1: 1.0}) is None


def test_a_common_noise_cancels_in_the_pairs():
    noise = np.random.default_rng(0).normal(0, 10, 8)
    arm, reference = ({i: x + shift for i, x in enumerate(noise)} for shift in (1.0, 0.0))
    comparison = compare(arm, reference)
    assert comparison.mean == pytest.approx(1) and comparison.low == pytest.approx(1)
    assert comparison.p == pytest.approx(2 / 2**8)


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
