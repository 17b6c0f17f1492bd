"""Every formulation of a convolution gives what XLA's own gives: forward, both gradients, in any context."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.kernels.convolution import convolve, plain
from tests.few import few


def operands(size=3, groups=1, inputs=12, outputs=12, extent=(7, 6), batch=3, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    x = jax.random.normal(keys[0], (batch, *extent, inputs))
    kernel = jax.random.normal(keys[1], (size, size, inputs // groups, outputs))
    return x, kernel


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def value_and_gradients(convolution, x, kernel, stride, padding, groups):
    y, pull = jax.vjp(lambda x, kernel: convolution(x, kernel, stride, padding, groups), x, kernel)
    return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))


def assert_close(ours, theirs, relative=1e-6):
    """Within `relative` of the largest value: sums of n terms may run in another order."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * float(jnp.abs(b).max() + 1))


@pytest.mark.parametrize("groups", (1, 2, 12))
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("size", few(2, (1, 3, 5)))
def test_forward_and_gradients(size, stride, groups):
    x, kernel = operands(size, groups)
    arguments = (x, kernel, stride, (size - 1) // 2, groups)
    assert_close(value_and_gradients(convolve, *arguments), value_and_gradients(plain, *arguments), 2e-6)


@pytest.mark.parametrize("extent", ((1, 1), (2, 5), (9, 8)))
def test_any_extent_and_no_padding(extent):
    x, kernel = operands(7 if extent == (9, 8) else 1, extent=extent)
    for stride in (1, 2):
        arguments = (x, kernel, stride, 0, 1)
        assert_close(value_and_gradients(convolve, *arguments), value_and_gradients(plain, *arguments), 2e-6)


def test_many_groups_in_chunks():
    x, kernel = operands(groups=16, inputs=64, outputs=128, extent=(4, 4))
    arguments = (x, kernel, 2, 1, 16)
    assert_close(value_and_gradients(convolve, *arguments), value_and_gradients(plain, *arguments), 2e-6)


def test_seeds_under_vmap():
    pairs = [operands(seed=seed) for seed in range(3)]
    together = jax.vmap(lambda x, k: value_and_gradients(convolve, x, k, 2, 1, 1))(
        *(jnp.stack(arrays) for arrays in zip(*pairs, strict=True))
    )
    for i, (x, kernel) in enumerate(pairs):
        alone = value_and_gradients(convolve, x, kernel, 2, 1, 1)
        assert_close([leaf[i] for leaf in together], alone)


@pytest.mark.parametrize("channels", (12, 16))
def test_inside_scan_and_remat(channels):
    x, kernel = operands(inputs=channels, outputs=channels)

    def chain(convolution, x, kernel):
        block = jax.checkpoint(lambda x: jnp.tanh(convolution(x, kernel, 1, 1, 1)))
        return jax.lax.scan(lambda x, _: (block(x), None), x, None, length=3)[0].sum()

    gradients = [
        jax.jit(jax.grad(functools.partial(chain, f), argnums=(0, 1)))(x, kernel) for f in (convolve, plain)
    ]
    assert_close(*gradients, 1e-5)


def test_the_gradient_of_a_gradient():
    x, kernel = operands()

    def penalty(convolution, kernel):
        gradient = jax.grad(lambda x: jnp.square(convolution(x, kernel, 2, 1, 1)).sum())(x)
        return jnp.square(gradient).sum()

    assert_close(*(jax.jit(jax.grad(functools.partial(penalty, f)))(kernel) for f in (convolve, plain)), 1e-5)


@pytest.mark.parametrize(("size", "groups", "channels"), ((1, 1, 12), (1, 4, 8), (3, 1, 16), (3, 4, 8)))
def test_forward_mode_alone_and_over_reverse(size, groups, channels):
    """Jacobian- and Hessian-vector products, of several directions under vmap."""
    x, kernel = operands(size, groups, channels, channels, extent=(4, 4), batch=1)
    directions = operands(size, groups, channels, channels, extent=(4, 4), batch=2, seed=1)[0][:, None]

    def products(convolution, x, kernel):
        def f(x):
            return jnp.sin(convolution(x, kernel, 2, size // 2, groups))

        def along(direction):
            _, hessian = jax.jvp(jax.grad(lambda x: f(x).sum()), (x,), (direction,))
            return jax.jvp(f, (x,), (direction,))[1], hessian

        return jax.vmap(along)(directions)

    assert_close(*(jax.jit(products, static_argnums=0)(f, x, kernel) for f in (convolve, plain)), 1e-5)


@pytest.mark.parametrize("size", (3, 5, 7))
def test_dense_forward_is_equal_to_the_last_bit(size):
    """It is XLA's own; matrix products (1x1), chunks of groups and gradients round in another order."""
    x, kernel = operands(size)
    np.testing.assert_array_equal(*(f(x, kernel, 2, size // 2, 1) for f in (convolve, plain)))


def spoiled(array, place, value):
    return array.reshape(-1).at[place].set(value).reshape(array.shape)


def scanned(convolution, x, kernel, *window):
    """Through a loop of one turn, in which the gradients stand in a body of their own."""
    return jax.lax.scan(lambda x, _: (convolution(x, kernel, *window), None), x, None, length=1)[0]


def recomputed(convolution, x, kernel, *window):
    return jax.checkpoint(lambda x, kernel: convolution(x, kernel, *window))(x, kernel)


def mapped(convolution, x, kernel, *window):
    """As two seeds of which the first is sound."""
    pairs = jnp.stack([jnp.ones_like(x), x]), jnp.stack([jnp.ones_like(kernel), kernel])
    return jax.vmap(lambda x, kernel: convolution(x, kernel, *window))(*pairs)[1]


CONTEXTS = {
    "alone": lambda f, *arguments: f(*arguments),
    "scan": scanned,
    "remat": recomputed,
    "vmap": mapped,
}


@functools.partial(jax.jit, static_argnums=(0, 1, 5))
def in_context(context, convolution, x, kernel, g, window):
    y, pull = jax.vjp(lambda x, kernel: CONTEXTS[context](convolution, x, kernel, *window), x, kernel)
    return y, *pull(g)


@pytest.mark.thorough
@pytest.mark.parametrize("value", (jnp.nan, jnp.inf, -jnp.inf))
@pytest.mark.parametrize("place", (0, -1))
@pytest.mark.parametrize(("size", "groups", "channels"), ((1, 1, 12), (3, 1, 12), (3, 1, 16), (3, 4, 8)))
@pytest.mark.parametrize("context", CONTEXTS)
def test_divergence_stays_visible(context, size, groups, channels, place, value):
    """Where XLA's own result is not finite, because one value of x, kernel or g is not, ours is not."""
    x, kernel = operands(size, groups, channels, channels, extent=(4, 4), batch=2)
    window = (1, size // 2, groups)
    g = operands(1, 1, channels, channels, extent=(4, 4), batch=2, seed=1)[0]
    for spoil in range(3):
        arrays = [x, kernel, g]
        arrays[spoil] = spoiled(arrays[spoil], place, value)
        ours, theirs = (in_context(context, f, *arrays, window) for f in (convolve, plain))
        for mine, other in zip(ours, theirs, strict=True):
            assert np.isfinite(mine).all() == np.isfinite(other).all()
            lost = ~np.isfinite(other) & np.isfinite(mine)
            assert not lost.any(), f"{lost.sum()} values look sound"


@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_what_is_not_finite_reaches_the_gradients_that_read_it(value):
    """By XLA's own operations for 12 channels, behind a fence whose condition reads the first number."""
    x, kernel = operands(inputs=12, outputs=12)
    broken = x.at[0, 0, 0, 0].set(value)

    def gradient(f):
        return jax.jit(jax.grad(lambda kernel: f(broken, kernel, 1, 1, 1).sum()))(kernel)

    assert_close(jnp.nan_to_num(gradient(convolve)), jnp.nan_to_num(gradient(plain)), 1e-5)
    np.testing.assert_array_equal(np.isfinite(gradient(convolve)), np.isfinite(gradient(plain)))
