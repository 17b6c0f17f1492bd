"""RevNet's backward pass (Gomez 2017, arXiv 1707.04585): blocks are inverted, so their inputs are not stored.

A block (x1, x2) -> (x2, x1 + F(x2)) gives back its input from its output (y1, y2): x2 = y1, x1 = y2 - F(y1).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from resnet.models.shortcuts.junction import Carried


def scan_reversibly(step: Callable, carried: Carried, inputs: tuple[Any, Any]) -> tuple[Carried, Any]:
    """jax.lax.scan of a reversible block, whose backward pass is given the last output alone.

    step(x, (params, others)) -> (y, (y, more)), both of two streams. Gradients flow from every y to the first
    x, and to `params`. In each block the branch is computed once more, from what the block gave.
    """
    params, others = inputs
    # As leaves, since JAX rebuilds trees with placeholders in them, which are no arrays.
    leaves, structure = jax.tree.flatten(others)

    def block(x: Carried, params: Any, leaves: list[Array]) -> tuple[Carried, Any]:
        return step(x, (params, structure.unflatten(leaves)))

    @jax.custom_vjp
    def run(first: Carried, params: Any, leaves: list[Array]) -> tuple[Carried, Any]:
        return jax.lax.scan(lambda x, own: block(x, *own), first, (params, leaves))

    def forward(*arguments: Any) -> tuple[Any, Any]:
        first, params, leaves = jax.tree.map(lambda leaf: leaf.value, arguments)
        last, outputs = run(first, params, leaves)
        return (last, outputs), (last, params, leaves)

    def backward(kept: Any, cotangents: Any) -> tuple[Carried, Any, None]:
        last, params, leaves = kept
        of_last, (of_each, _) = cotangents
        of_last = jnp.zeros_like(last) if isinstance(of_last, SymbolicZero) else of_last
        of_each = None if isinstance(of_each, SymbolicZero) else of_each

        def back(carry: tuple[Carried, Carried], own: Any) -> tuple[tuple[Carried, Carried], Any]:
            y, cotangent = carry
            params, leaves, of_own = own
            x, pull = invert(lambda x, params: block(x, params, leaves), y, params)
            of_x, of_params = pull(cotangent if of_own is None else cotangent + of_own)
            return (x, of_x), of_params

        given = (params, leaves, of_each)
        (_, of_first), of_params = jax.lax.scan(back, (last, of_last), given, reverse=True)
        return of_first, of_params, None

    run.defvjp(forward, backward, symbolic_zeros=True)
    return run(carried, params, leaves)


def invert(
    block: Callable, y: Carried, params: Any
) -> tuple[Carried, Callable[[Carried], tuple[Carried, Any]]]:
    """(x, the pullback of the block at x) where block(x, params)[0] = y; F is applied once.

    The block at (-y2, y1) gives (y1, F(y1) - y2) = (x2, -x1). Its pullback is that at x: x1 is only added.
    """
    y1, y2 = jnp.split(y, 2, axis=-1)
    turned, pull, _ = jax.vjp(block, jnp.concatenate([-y2, y1], -1), params, has_aux=True)
    x2, minus_x1 = jnp.split(turned, 2, axis=-1)
    return jnp.concatenate([-minus_x1, x2], -1), pull
