"""Matrix-free eigenvalues and singular values against those of matrices that are known."""

import numpy as np
import pytest

from resnet.analysis.krylov import density, golub_kahan, lanczos


def rotated(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A symmetric matrix with these eigenvalues."""
    q, _ = np.linalg.qr(rng.normal(size=(len(values),) * 2))
    return q @ np.diag(values) @ q.T


def test_as_many_steps_as_dimensions_give_every_eigenvalue(rng):
    values = np.sort(rng.normal(size=30))
    matrix = rotated(values, rng)
    found = lanczos(lambda v: matrix @ v, rng.normal(size=30), 30)
    np.testing.assert_allclose(found.values, values, atol=1e-6)
    assert found.errors.max() < 1e-6 and found.weights.sum() == pytest.approx(1)


def test_extreme_eigenvalues_come_first_and_within_their_errors(rng):
    values = np.concatenate([[-3.0], rng.uniform(-0.5, 0.5, 397), [4.0, 10.0]])
    matrix = rotated(values, rng)
    found = lanczos(lambda v: matrix @ v, rng.normal(size=400), 25)
    assert found.values[[0, -2, -1]] == pytest.approx([-3, 4, 10], abs=1e-4)
    nearest = np.abs(found.values[:, None] - values).min(1)
    assert (nearest <= found.errors + 1e-9).all()


def test_repeated_eigenvalues_end_the_iteration(rng):
    matrix = rotated(np.repeat([1.0, 2.0, 5.0], 10), rng)
    found = lanczos(lambda v: matrix @ v, rng.normal(size=30), 30)
    np.testing.assert_allclose(found.values, [1, 2, 5], atol=1e-8)
    assert found.weights.sum() == pytest.approx(1)


@pytest.mark.thorough
def test_the_density_of_values_has_their_shares_and_their_trace(rng):
    # A fifth of the values near 3, the rest near 0: the integrals over each part, averaged over starts.
    values = np.concatenate([rng.normal(0, 0.1, 800), rng.normal(3, 0.1, 200)])
    matrix = rotated(values, rng)
    found = [lanczos(lambda v: matrix @ v, rng.normal(size=1000), 40) for _ in range(8)]
    grid = np.linspace(-2, 5, 1401)
    curve = density(found, grid, width=0.05)
    cell = grid[1] - grid[0]
    assert curve.sum() * cell == pytest.approx(1, abs=1e-3)
    assert curve[grid > 1.5].sum() * cell == pytest.approx(0.2, abs=0.03)
    assert np.mean([ritz.mean() for ritz in found]) == pytest.approx(values.mean(), abs=0.1)
    assert found[0].quantile(0.5) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("shape", [(12, 12), (20, 12), (12, 20)])
def test_singular_values_of_several_matrices_at_once(rng, shape):
    matrices = rng.normal(size=(3, *shape))
    found = golub_kahan(
        lambda v: np.einsum("nij,nj->ni", matrices, v),
        lambda u: np.einsum("nij,ni->nj", matrices, u),
        rng.normal(size=(3, shape[1])),
        steps=12,
    )
    for ritz, matrix in zip(found, matrices, strict=True):
        if shape != (12, 20):  # there the start lies half outside of the row space
            np.testing.assert_allclose(ritz.values[::-1], np.linalg.svd(matrix)[1], atol=1e-6)
            assert ritz.mean(2) == pytest.approx(np.square(matrix).sum() / 12)
        assert ritz.values[-1] == pytest.approx(np.linalg.norm(matrix, 2), abs=1e-2)
        assert ritz.weights.sum() == pytest.approx(1)


def test_the_largest_singular_value_is_found_from_below_the_smallest_from_above(rng):
    matrix = rng.normal(size=(200, 200))
    true = np.linalg.svd(matrix)[1]
    for steps in (5, 20, 60):
        (ritz,) = golub_kahan(lambda v: v @ matrix.T, lambda u: u @ matrix, rng.normal(size=(1, 200)), steps)
        assert true[-1] <= ritz.values[0] and ritz.values[-1] <= true[0] + 1e-9
    assert ritz.values[-1] == pytest.approx(true[0], rel=1e-3)
    assert np.mean(true**2) == pytest.approx(ritz.mean(2), rel=0.3)


def test_the_identity_and_a_projection_have_the_singular_values_0_and_1(rng):
    kept = np.concatenate([np.ones(6), np.zeros(4)])
    for scale, values in ((np.ones(10), [1.0]), (kept, [0.0, 1.0])):
        products = lambda v, scale=scale: v * scale  # noqa: E731
        (ritz,) = golub_kahan(products, products, rng.normal(size=(1, 10)), steps=10)
        np.testing.assert_allclose(ritz.values, values, atol=1e-9)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
