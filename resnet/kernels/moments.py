"""Sums over images and pixels, channel by channel: what batch norm needs, forward and backward.

On the CPU XLA writes deviations out before it sums their squares; there, in float32 and for a multiple of
16 channels, our own (native) reads its operands once. Derivatives of all orders are those of the plain form.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet.kernels import native
from resnet.kernels.backend import written_for_cpu


def moments(x: Float[Array, "b h w c"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """(mean, biased variance), in float32."""
    return _native_moments(x) if _ours(x) else _moments(x)


def projections(
    g: Float[Array, "b h w c"], x: Float[Array, "b h w c"], mean: Float[Array, " c"]
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """(sum of g, sum of g * (x - mean)), in float32."""
    if g.shape != x.shape or mean.shape != x.shape[-1:]:
        raise ValueError(
            f"g must have the shape of x, and a mean for each channel; got {g.shape}, {x.shape}, {mean.shape}"
        )
    return _native_projections(g, x, mean) if _ours(g, x, mean) else _projections(g, x, mean)


def _ours(*arrays: Array) -> bool:
    fits = all(a.dtype == jnp.float32 and a.shape[-1] % native.BLOCK == 0 and a.size > 0 for a in arrays)
    return fits and written_for_cpu() and native.in_use()


def _moments(x: Array) -> tuple[Array, Array]:
    mean = x.mean((0, 1, 2))
    # The two-pass form: E[x^2] - E[x]^2 cancels where the mean is large against the deviation.
    return mean, jnp.square(x - mean[None, None, None]).mean((0, 1, 2))


def _projections(g: Array, x: Array, mean: Array) -> tuple[Array, Array]:
    return g.sum((0, 1, 2)), (g * (x - mean[None, None, None])).sum((0, 1, 2))


def _with_derivative_of(plain: Callable, ours: Callable) -> Callable:
    function = jax.custom_jvp(ours)
    function.defjvp(lambda primals, tangents: (function(*primals), jax.jvp(plain, primals, tangents)[1]))
    return function


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


_native_moments = _with_derivative_of(_moments, lambda x: tuple(native.sums("moments", _rows(x))))
_native_projections = _with_derivative_of(
    _projections, lambda g, x, mean: tuple(native.sums("projections", _rows(g), _rows(x), mean))
)
