"""ReLU behind a sum equals `jax.nn.relu`, derivatives too; on GPUs its gradient reads its result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.kernels.relu import relu_of_sum

X = jnp.array([-1.0, 0.0, -0.0, 1e-40, 2.0, jnp.nan, jnp.inf, -jnp.inf])


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_values_and_derivatives_are_those_of_relu(dtype):
    x, tangent = X.astype(dtype), jnp.arange(1.0, 9.0).astype(dtype)

    def all_of(function):
        y, backward = jax.vjp(function, x)
        forward = jax.jvp(function, (x,), (tangent,))
        second = jax.vmap(jax.grad(jax.grad(function)))(x)
        return y, *backward(tangent), *forward, second, jax.vmap(function)(x[None])

    for found, expected in zip(all_of(relu_of_sum), all_of(jax.nn.relu), strict=True):
        np.testing.assert_array_equal(found.astype(jnp.float32), expected.astype(jnp.float32))


@pytest.mark.parametrize("platform, barriers", (("cpu", 0), ("tpu", 0), ("cuda", 1)))
def test_the_gradient_reads_the_result_on_gpus(platform, barriers):
    gradient = jax.jit(jax.grad(lambda x, y: relu_of_sum(x + y).sum()))
    text = gradient.trace(X, X).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("optimization_barrier") == barriers
