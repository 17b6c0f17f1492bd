"""Eigenvalues and singular values of maps that are known only by their products with vectors.

Both iterations keep their basis orthogonal by full reorthogonalisation in float64 (Golub and Van Loan,
Matrix Computations, 4th ed., 10.1 and 10.4), so that products in float32 limit them, not the length of
the iteration. After as many steps as the space has dimensions the values are those of the whole map.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
from jaxtyping import Float

Products = Callable[[np.ndarray], np.ndarray]
# A value whose weight is below this belongs to no direction that the start has: the iteration had ended.
ABSENT = 1e-20
# A new direction this much shorter than the map is long is round-off of products in float32.
ROUND_OFF = 1e-6


@dataclasses.dataclass(frozen=True)
class Ritz:
    """Values found from one start, in rising order.

    `weights` sum to 1: the share of the start (squared) along each value. For a random start they make
    the values a quadrature of the density of all values; where all are found each weighs the same.
    `errors`: some true value lies this close.
    """

    values: Float[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]
    errors: Float[np.ndarray, " m"]

    def quantile(self, share: float) -> float:
        """The value below which `share` of the density lies."""
        reached = np.searchsorted(np.cumsum(self.weights), share * self.weights.sum())
        return float(self.values[min(reached, len(self.values) - 1)])

    def mean(self, power: float = 1.0) -> float:
        """Mean of value^power over the density."""
        return float(self.weights @ self.values**power)


def lanczos(apply: Products, start: Float[np.ndarray, " d"], steps: int) -> Ritz:
    """Eigenvalues of a symmetric map R^d -> R^d from `steps` products; extreme ones converge first."""
    steps = min(steps, start.size)
    basis = np.zeros((steps, start.size))
    diagonal, off = np.zeros(steps), np.zeros(steps)
    vector, scale = start.astype(np.float64) / np.linalg.norm(start), 0.0
    for k in range(steps):
        basis[k] = vector
        vector = np.asarray(apply(vector), np.float64)
        diagonal[k] = basis[k] @ vector
        vector = _orthogonal(vector, basis[: k + 1])
        off[k] = np.linalg.norm(vector)
        scale = max(scale, abs(diagonal[k]), off[k])
        if off[k] <= ROUND_OFF * scale:
            diagonal, off = diagonal[: k + 1], off[: k + 1]
            break
        vector /= off[k]
    values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off[:-1])
    # Products in float32 are not closer than this, however small the remainder.
    least = np.finfo(np.float32).eps * np.abs(values).max()
    return Ritz(values, _weights(vectors[0], start.size), off[-1] * np.abs(vectors[-1]) + least)


def golub_kahan(
    apply: Products, transposed: Products, starts: Float[np.ndarray, "n d"], steps: int
) -> list[Ritz]:
    """Singular values of n maps R^d -> R^e by bidiagonalisation, from `steps` products in each direction.

    `apply` takes [n, d] to [n, e], one map a row, and `transposed` takes it back. The largest value
    converges first, and is found from below; the smallest is found from above.
    """
    n, d = starts.shape
    right, alphas, betas = np.zeros((n, steps, d)), np.zeros((n, steps)), np.zeros((n, steps))
    v, _ = _normalized(starts.astype(np.float64), np.zeros(n))
    u, scale = np.asarray(apply(v), np.float64), np.zeros(n)
    left = np.zeros((n, steps, u.shape[1]))
    for k in range(steps):
        right[:, k] = v
        u, alphas[:, k] = _normalized(u, scale)
        left[:, k] = u
        scale = np.maximum(scale, alphas[:, k])
        v = _orthogonal(np.asarray(transposed(u), np.float64), right[:, : k + 1])
        v, betas[:, k] = _normalized(v, scale)
        scale = np.maximum(scale, betas[:, k])
        if k + 1 < steps:
            u = _orthogonal(np.asarray(apply(v), np.float64), left[:, : k + 1])
    return [_bidiagonal(a, b, d) for a, b in zip(alphas, betas, strict=True)]


def density(found: Sequence[Ritz], grid: Float[np.ndarray, " g"], width: float) -> Float[np.ndarray, " g"]:
    """Density of values on a grid: each a Gaussian of deviation `width`, averaged over the starts.

    Stochastic Lanczos quadrature (Ghorbani 2019, https://arxiv.org/abs/1901.10159).
    """
    total = np.zeros_like(grid)
    for ritz in found:
        bells = np.exp(-0.5 * ((grid[:, None] - ritz.values) / width) ** 2)
        total += bells @ ritz.weights / (width * np.sqrt(2 * np.pi))
    return total / len(found)


def _orthogonal(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """`vector` without its parts along the rows of `basis`; twice, for the first pass leaves round-off."""
    for _ in range(2):
        parts = basis @ vector[..., None]
        vector = vector - (basis.swapaxes(-1, -2) @ parts)[..., 0]
    return vector


def _normalized(vectors: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row over its length, and the lengths; a row that is round-off of `scale` becomes 0."""
    lengths = np.linalg.norm(vectors, axis=-1)
    lengths = np.where(lengths > ROUND_OFF * scale, lengths, 0.0)
    return vectors / np.where(lengths > 0, lengths, 1.0)[:, None] * (lengths > 0)[:, None], lengths


def _bidiagonal(alphas: np.ndarray, betas: np.ndarray, dimensions: int) -> Ritz:
    """Singular values of the bidiagonal matrix, those of directions after the end left out."""
    matrix = np.diag(alphas) + np.diag(betas[:-1], 1)
    left, values, right = np.linalg.svd(matrix)
    kept = np.flatnonzero(right[:, 0] ** 2 > ABSENT)[::-1]
    errors = betas[-1] * np.abs(left[-1])
    return Ritz(values[kept], _weights(right[kept, 0], dimensions), errors[kept])


def _weights(parts: np.ndarray, dimensions: int) -> np.ndarray:
    """Shares of the values in the density, from the start's parts along them."""
    if len(parts) == dimensions:
        return np.full(dimensions, 1 / dimensions)
    return parts**2 / (parts @ parts)
