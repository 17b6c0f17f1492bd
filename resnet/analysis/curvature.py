"""Curvature of the loss over the parameters: extreme eigenvalues and density, by products alone.

The Hessian is that of the mean loss over fixed images, and its generalised Gauss-Newton part leaves out
the curvature of the net itself: J^T H J, H the Hessian of the loss over the logits, never negative for
the losses here. Normalisation uses its running statistics, as in evaluation: they are constants, so
that every image's loss is a function of the parameters alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from resnet.analysis.krylov import Products

Logits = Callable[[Any, Array], Array]
Loss = Callable[[Array, Array], Float[Array, ""]]


def hessian_products(logits: Logits, loss: Loss, params: Any, images: Array, labels: Array) -> Products:
    """v -> H v for the mean over batches of loss(logits(params, images), labels).

    images, labels: [batches, b, ...]. Vectors are flat, in the order of jax.tree.leaves.
    """

    def product(params: Any, tangent: Any, images: Array, labels: Array) -> Any:
        gradient = jax.grad(lambda p: loss(logits(p, images), labels))
        return jax.jvp(gradient, (params,), (tangent,))[1]

    return _mean_products(product, params, images, labels)


def ggn_products(logits: Logits, loss: Loss, params: Any, images: Array, labels: Array) -> Products:
    """v -> J^T H J v, as `hessian_products`."""

    def product(params: Any, tangent: Any, images: Array, labels: Array) -> Any:
        outputs, moved = jax.jvp(lambda p: logits(p, images), (params,), (tangent,))
        curved = jax.jvp(jax.grad(lambda y: loss(y, labels)), (outputs,), (moved,))[1]
        return jax.vjp(lambda p: logits(p, images), params)[1](curved)[0]

    return _mean_products(product, params, images, labels)


def _mean_products(product: Callable, params: Any, images: Array, labels: Array) -> Products:
    """`product` of a flat vector, averaged over batches one after the other, so that memory holds one."""
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def mean(params: Any, vector: Array, images: Array, labels: Array) -> Array:
        def add(total, batch):
            one = product(params, unravel(vector), *batch)
            return total + ravel_pytree(one)[0] / len(images), None

        return jax.lax.scan(add, jnp.zeros_like(flat), (images, labels))[0]

    return lambda vector: np.asarray(mean(params, jnp.asarray(vector, flat.dtype), images, labels))
