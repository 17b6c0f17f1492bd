"""Activations made for the depth of a net that has neither shortcut nor norm: what can stand in their place.

Two inputs with cosine c have the cosine C(c) behind a layer. Over n layers with ReLU, C^n takes every c close
to 1, and the net no longer tells its inputs apart. TAT (Zhang 2022, arXiv 2203.08120) and DKS (Martens 2021,
arXiv 2110.01765) choose the activation so that the C of the whole net stays away from that. Both
assume kernels that start as `scaled_delta_orthogonal`. Here n is the number of activations in a chain.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet.errors import InputError

# The constants of the papers: C^n(0) of tailored ReLU, C^n''(1) of smooth TAT, and C^n'(1) of DKS.
ETA, TAU, ZETA = 0.9, 0.3, 1.5
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(100)


def cosine_map(c: float, slope: float) -> float:
    """C(c) of leaky ReLU with this slope for negative values, scaled to keep the mean square."""
    part = math.sqrt(1 - c**2) - c * math.acos(c)
    return min(c + (1 - slope) ** 2 / (math.pi * (1 + slope**2)) * part, 1.0)


def composed(slope: float, count: int, c: float = 0.0) -> float:
    """C^n(c)."""
    for _ in range(count):
        c = cosine_map(c, slope)
    return c


@functools.cache
def tailored_slope(count: int) -> float:
    """The slope at which C^n(0) = 0.9; 0 up to 12 activations, where ReLU itself stays below that."""
    if composed(0.0, count) <= ETA:
        return 0.0
    from scipy import optimize  # here, because it takes as long as half of JAX and few nets need it

    found = optimize.root_scalar(lambda slope: composed(slope, count) - ETA, bracket=(0.0, 1.0), xtol=1e-14)
    return float(found.root)


def tat_relu(count: int) -> Callable[[Array], Array]:
    """Leaky ReLU tailored to n activations, times the factor that keeps the mean square."""
    slope = tailored_slope(count)
    scale = math.sqrt(2 / (1 + slope**2))
    return lambda x: scale * jnp.where(x > 0, x, slope * x)


def normal_mean(values: np.ndarray) -> float:
    """E f(z), z standard normal, from the values at the nodes."""
    return float((values * WEIGHTS).sum() / WEIGHTS.sum())


def moments_of_softplus(numbers: tuple[float, float, float, float]) -> dict[str, float]:
    """What the conditions are about, of h(z) = g (softplus(s z + d) + e), numbers = (s, d, g, e)."""
    s, d, g, e = numbers
    inside = s * NODES + d
    sigmoid = np.exp(-np.logaddexp(0, -inside))
    h = g * (np.logaddexp(0, inside) + e)
    first, second = g * s * sigmoid, g * s**2 * sigmoid * (1 - sigmoid)
    return {
        "E h": normal_mean(h),
        "Q(1)": normal_mean(h**2),
        "Q'(1)": normal_mean(h * first * NODES),
        "C'(1)": normal_mean(first**2),
        "C''(1)": normal_mean(second**2),
    }


def _solved(wanted: dict[str, float], curvature: float) -> tuple[float, float, float, float]:
    """The numbers of a softplus with these moments, whose second derivative is about `curvature`.

    There are several; the start leads to the one with s g < 2, which the authors' code takes.
    """
    from scipy import optimize

    def numbers(unknown: np.ndarray) -> tuple[float, float, float, float]:
        slope, d, product, e = map(float, unknown)
        s = math.exp(slope)
        return s, d, math.exp(product) / s, e

    def misses(unknown: np.ndarray) -> list[float]:
        found = moments_of_softplus(numbers(unknown))
        return [(found[name] - value) / (value or 1.0) for name, value in wanted.items()]

    start = (math.log(2.7 * curvature), 0.5, math.log(1.6), -1.0)
    solution = optimize.root(misses, start, tol=1e-12)
    found = numbers(solution.x)
    if max(map(abs, misses(solution.x))) > 1e-6 or found[0] * found[2] >= 2:
        raise InputError(
            f"no softplus is known that has {wanted}; choose another `model.activation`, or depth"
        )
    return found


@functools.cache
def tat_numbers(count: int) -> tuple[float, float, float, float]:
    """Smooth TAT: Q(1) = Q'(1) = C'(1) = 1 and C''(1) = 0.3 / n in each layer."""
    wanted = {"Q(1)": 1.0, "Q'(1)": 1.0, "C'(1)": 1.0, "C''(1)": TAU / count}
    return _solved(wanted, math.sqrt(TAU / count))


@functools.cache
def dks_numbers(count: int) -> tuple[float, float, float, float]:
    """DKS: Q(1) = Q'(1) = 1, C(0) = 0 and C'(1) = 1.5^(1/n) in each layer."""
    slope = ZETA ** (1 / count)
    wanted = {"Q(1)": 1.0, "Q'(1)": 1.0, "E h": 0.0, "C'(1)": slope}
    return _solved(wanted, math.sqrt(2 * (slope - 1)))


def _softplus(numbers: tuple[float, float, float, float]) -> Callable[[Array], Array]:
    s, d, g, e = numbers
    return lambda x: g * (jax.nn.softplus(s * x + d) + e)


# By name, the activation of a net with so many activations in a chain.
TAILORED: dict[str, Callable[[int], Callable[[Array], Array]]] = {
    "tat_relu": tat_relu,
    "tat_softplus": lambda count: _softplus(tat_numbers(count)),
    "dks_softplus": lambda count: _softplus(dks_numbers(count)),
}
