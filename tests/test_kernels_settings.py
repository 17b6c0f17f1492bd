"""The kernels under other settings of JAX: types of 64 bits, shares of devices, other formulations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from test_kernels_convolution import assert_close

from resnet.kernels import native
from resnet.kernels.backend import by_xla_alone
from resnet.kernels.convolution import convolve
from resnet.kernels.joining import joined
from resnet.kernels.moments import moments, projections
from resnet.kernels.pooling import max_pool

X = jax.random.normal(jax.random.key(0), (4, 6, 6, 16), jnp.float32)
KERNEL = jax.random.normal(jax.random.key(1), (3, 3, 16, 16), jnp.float32) / 12
SCALE = jnp.linspace(0.5, 2, 16, dtype=jnp.float32)


def step(x, kernel, scale):
    """A norm and its ReLU before a convolution, and a shortcut and a ReLU behind, forward and backward."""

    def loss(kernel, scale):
        mean, variance = moments(x, 0 * scale)
        y = (x - mean[None, None, None]) * (scale / jnp.sqrt(variance))[None, None, None]
        y = jax.nn.relu(y + scale[None, None, None])
        return max_pool(jax.nn.relu(convolve(y, kernel, 1, 1, 1) + x)).sum()

    return jax.value_and_grad(loss, (0, 1))(kernel, scale)


FUNCTIONS = {
    "convolve": lambda x, kernel, scale: jax.vjp(lambda *a: convolve(*a, 1, 1, 1), x, kernel)[1](x),
    "convolve and relu": lambda x, kernel, scale: jax.nn.relu(convolve(x, kernel, 1, 1, 1)),
    "moments": lambda x, kernel, scale: moments(x, scale),
    "projections": lambda x, kernel, scale: projections(x, x, scale),
    "sum of norms": lambda x, kernel, scale: x * scale[None, None, None] + x[::-1],
    "max_pool": lambda x, kernel, scale: jax.grad(lambda x: max_pool(x).sum())(x),
    "step": step,
}


@pytest.mark.parametrize("wrapped", (lambda f: f, joined), ids=("plain", "joined"))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_stays_float32_beside_types_of_64_bits(name, wrapped):
    function = wrapped(FUNCTIONS[name])
    expected = jax.jit(function)(X, KERNEL, SCALE)
    with jax.enable_x64(True):
        found = jax.jit(function)(X, KERNEL, SCALE)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}
    assert_close(found, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shares_of_devices_are_not_mixed_up(name):
    """A gradient to what all devices hold would be that of one share, were it not refused."""
    mesh, whole = Mesh(jax.devices()[:2], ("d",)), PartitionSpec()
    specs = {"mesh": mesh, "in_specs": (PartitionSpec("d"), whole, whole), "out_specs": whole}
    function = joined(FUNCTIONS[name])
    # The pool holds a conditional, whose types JAX itself refuses.
    with pytest.raises((NotImplementedError, TypeError), match="check_vma=False|manual axis types"):
        jax.jit(jax.shard_map(function, **specs))(X, KERNEL, SCALE)
    jax.jit(jax.shard_map(lambda *arrays: function(*arrays), check_vma=False, **specs)).lower(
        X, KERNEL, SCALE
    )


def test_what_was_traced_before_is_traced_anew_for_xla_alone():
    step_of_ours = jax.jit(FUNCTIONS["convolve"])
    expected = step_of_ours(X, KERNEL, SCALE)
    with by_xla_alone():
        assert "resnet_" not in step_of_ours.lower(X, KERNEL, SCALE).as_text()
        assert_close(step_of_ours(X, KERNEL, SCALE), expected)
    assert ("resnet_" in step_of_ours.lower(X, KERNEL, SCALE).as_text()) == native.in_use()
