"""The max-pool gives what XLA's own gives, derivatives of every kind included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.kernels.backend import by_xla_alone
from resnet.kernels.pooling import _by_xla, max_pool

stock = functools.partial(_by_xla, border=-np.inf)  # which is TPU's


def exported(x):
    with by_xla_alone():
        return max_pool(x)


def derivatives(pool, x, direction):
    def slope(x):
        return jax.grad(lambda x: jnp.sin(jax.checkpoint(pool)(x)).sum())(x)

    return pool(x), slope(x), jax.jvp(pool, (x,), (direction,)), jax.jvp(slope, (x,), (direction,))


@pytest.mark.parametrize(("extent", "channels"), (((1, 1), 8), ((7, 6), 24), ((8, 9), 16), ((8, 9), 5)))
def test_value_and_derivatives(extent, channels):
    x, direction = jax.random.normal(jax.random.key(0), (2, 3, *extent, channels))
    x = jnp.maximum(x, 0)  # many equal pixels
    ours, theirs = (jax.jit(lambda x, d, f=f: derivatives(f, x, d))(x, direction) for f in (max_pool, stock))
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("extent", ((1, 1), (7, 6), (8, 9)))
def test_value_and_derivatives_of_several_seeds(extent):
    keys = jax.random.split(jax.random.key(0), 2)
    x, direction = (jax.random.normal(key, (2, 3, *extent, 2)) for key in keys)
    x = jnp.maximum(x, 0)  # many equal pixels
    *both, theirs = (
        jax.jit(jax.vmap(lambda x, d, f=f: derivatives(f, x, d)))(x, direction)
        for f in (max_pool, exported, stock)
    )
    for ours in both:
        for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6)


def test_the_choice_of_the_platform_is_made_by_the_compiler():
    """Compiled for one platform, the gradient has no branch of another."""
    text = jax.jit(jax.grad(lambda x: max_pool(x).sum())).lower(jnp.ones((1, 6, 6, 1))).compile().as_text()
    # One is the fence about the largest pixels.
    assert text.count(" conditional(") == 1 and "select-and-scatter" not in text


@pytest.mark.parametrize("value", (jnp.nan, jnp.inf, -jnp.inf))
def test_divergence_stays_visible(value):
    x = jnp.ones((1, 6, 6, 1)).at[0, 2, 3, 0].set(value)
    np.testing.assert_array_equal(max_pool(x), stock(x))


@pytest.mark.parametrize("value", (jnp.nan, jnp.inf, -jnp.inf))
def test_an_image_that_diverges_spares_the_others(value):
    """The first number of all, too, by which XLA is kept from computing the winners anew."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 16)).at[0, :2, :2, 0].set(value)
    ours, theirs = (jax.jit(jax.grad(lambda x, f=f: f(x)[1].sum()))(x) for f in (max_pool, stock))
    np.testing.assert_array_equal(ours, theirs)
