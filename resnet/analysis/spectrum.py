"""Singular values of Jacobians: of every block, of the chain of blocks, and of the whole net.

A Jacobian here is that of one image: normalisation uses its running statistics, as in evaluation, so
that no image depends on another. Products with it (jvp) and with its transpose (vjp) are all that is
needed. A net passes gradients faithfully where all singular values are near 1 (dynamical isometry,
Saxe 2014, https://arxiv.org/abs/1312.6120; Pennington 2017, https://arxiv.org/abs/1711.04735).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet.analysis.krylov import Ritz, golub_kahan


def singular_values(
    function: Callable[[Array], Array], x: Array, steps: int, rng: np.random.Generator
) -> list[Ritz]:
    """Singular values of the Jacobian of `function` at each image of x [n, ...], [n, ...] -> [n, ...].

    `function` must treat the images one by one. All values come from as many steps as the smaller of
    the two spaces has dimensions, the largest from a few.
    """
    y = jax.eval_shape(function, x)

    @jax.jit
    def forward(x, tangents):
        return _flat(jax.jvp(function, (x,), (tangents.reshape(x.shape),))[1])

    @jax.jit
    def backward(x, cotangents):
        return _flat(jax.vjp(function, x)[1](cotangents.reshape(y.shape))[0])

    def apply(v: np.ndarray) -> np.ndarray:
        return np.asarray(forward(x, jnp.asarray(v, x.dtype)))

    def transposed(u: np.ndarray) -> np.ndarray:
        return np.asarray(backward(x, jnp.asarray(u, y.dtype)))

    inputs, outputs = x[0].size, y.size // len(x)
    starts = rng.normal(size=(len(x), min(inputs, outputs)))
    steps = min(steps, inputs, outputs)
    if outputs < inputs:  # The transpose has the same values, and fewer zeros beside them.
        return golub_kahan(transposed, apply, starts, steps)
    return golub_kahan(apply, transposed, starts, steps)


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1).astype(jnp.float32)
