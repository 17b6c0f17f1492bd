"""Norms, ReLUs and shortcuts as one pass over images give what they give as operations of their own."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kernels_convolution import assert_close

from resnet.kernels import native
from resnet.kernels.joining import joined
from resnet.kernels.relu import relu_of_sum
from resnet.models.norms import batch_normalize

CHANNELS = (8, 24, 32, 5)  # native code takes no 5


def normalized(x, scale, bias):
    return batch_normalize(x, scale, bias, jnp.zeros(x.shape[-1]), 1e-5, None)[0]


def apart(x, scale, bias):
    """Each image normalised by its own statistics, as a ghost group of one."""
    return batch_normalize(x, scale, bias, jnp.zeros((len(x), x.shape[-1])), 1e-5, None)[0]


def block_end(x, y, scale, bias):
    return relu_of_sum(normalized(y, scale, bias) + x)


def block_end_apart(x, y, scale, bias):
    return relu_of_sum(apart(y, scale, bias) + x)


def relu_of_norm_apart(x, y, scale, bias):
    return jax.nn.relu(apart(y, scale, bias)) * x


def two_kinds_of_norm(x, y, scale, bias):
    return jax.nn.relu(apart(y, scale, bias) + normalized(x, bias, scale))


def two_norms(x, y, scale, bias):
    return relu_of_sum(normalized(y, scale, bias) + normalized(x, bias, scale))


def plain_relu_of_sum(x, y, scale, bias):
    return jax.nn.relu(x + normalized(y, scale, bias))


def relu_of_norm(x, y, scale, bias):
    return jax.nn.relu(normalized(y, scale, bias)) * x


def shared(x, y, scale, bias):
    """A block end whose result goes two ways, so that two gradients meet at its ReLU."""
    z = block_end(x, y, scale, bias)
    return jnp.sin(z) + normalized(z, scale, bias)


def norm_of_norm(x, y, scale, bias):
    """Applies a norm to x * scale + bias, which is still to be computed when the norm is joined."""
    return jax.nn.relu(normalized(x * scale[None, None, None] + bias[None, None, None], bias, scale)) * y


FUNCTIONS = (
    block_end, two_norms, plain_relu_of_sum, relu_of_norm, shared, norm_of_norm, block_end_apart,
    relu_of_norm_apart, two_kinds_of_norm,
)  # fmt: skip


def gradients(function):
    return jax.grad(lambda *arrays: jnp.sin(function(*arrays)).sum(), range(4))


def drawn(channels):
    x, y = jax.random.normal(jax.random.key(0), (2, 3, 7, 6, channels))
    return x, y, *jax.random.uniform(jax.random.key(1), (2, channels), minval=-1.0)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_and_derivatives(function, channels):
    """Also under `vmap`, and of the second order."""
    arrays = drawn(channels)

    def slopes(*arrays):
        return sum(jnp.sin(each).sum() for each in gradients(function)(*arrays))

    second = jax.grad(slopes, range(4))
    for f in (function, gradients(function), second):
        assert_close(jax.jit(joined(f))(*arrays), jax.jit(f)(*arrays), 1e-4 if f is second else 1e-5)
    several = [jnp.stack([array, array / 2]) for array in arrays]
    f = gradients(function)
    assert_close(jax.jit(jax.vmap(joined(f)))(*several), jax.jit(jax.vmap(f))(*several), 1e-5)
    assert_close(jax.jit(gradients(joined(function)))(*arrays), jax.jit(f)(*arrays), 1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_not_finite_stays_visible(function):
    x, y, scale, bias = drawn(16)
    for value in (jnp.nan, jnp.inf, -jnp.inf):
        broken = (x.at[1, 2, 3, 4].set(value), y), (x, y.at[0, 6, 5, 9].set(value))
        for images, f in itertools.product(broken, (function, gradients(function))):
            both = (jax.tree.leaves(jax.jit(g)(*images, scale, bias)) for g in (joined(f), f))
            for found, plain in zip(*both, strict=True):
                np.testing.assert_array_equal(np.isfinite(found), np.isfinite(plain))


@pytest.mark.parametrize(
    ("function", "forward", "backward"),
    (
        (block_end, ["combination"], ["select_n", "combination"]),
        (two_norms, ["combination"], ["select_n", "combination", "combination"]),
        (relu_of_norm, ["add", "max"], ["combination"]),
        (block_end_apart, ["combination"], ["select_n", "combination"]),
        (relu_of_norm_apart, ["add", "max"], ["combination"]),
        (shared, ["combination", "add", "add"], ["combination", "masked_sum", "combination"]),
    ),
)
def test_each_is_one_pass(function, forward, backward):
    """Of two gradients that meet at a ReLU no sum is written, and of that to a norm before a ReLU no mask."""

    def gradient(*arrays):
        results, pull = jax.vjp(function, *arrays)
        return pull(results)[:2]

    text = str(jax.make_jaxpr(joined(gradient))(*drawn(16)))
    found = re.findall(r":f32\[3,7,6,16\] = (combination|masked_sum|select_n|add|max)\b", text)
    assert found == forward + backward


@pytest.mark.skipif(not native.in_use(), reason="no C++ compiler")
@pytest.mark.parametrize(("platform", "serves"), (("cpu", True), ("cuda", False), ("tpu", False)))
def test_lowered_by_platform(platform, serves):
    traced = jax.jit(joined(gradients(shared))).trace(*drawn(16))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert [f"resnet_{target}" in text for target in native.PASSES] == [serves] * 2
