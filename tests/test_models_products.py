"""The norm of a product of pixels and a matrix, which is computed without the product."""

import re

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.kernels.convolution import convolve
from resnet.models import norms
from resnet.models.norms import batch_normalize, normalize_product
from tests.models_cases import images, loss, net, split, start
from tests.test_models_norms import BIAS, EPSILON, SCALE, SHIFT, X, assert_close, plain, pulled

KERNEL = images(1, 1, 4, 8, seed=6) / 2


def of_the_result(x, kernel, scale, bias, axis_name=None):
    """Normalises the result of the convolution, which is written."""
    return batch_normalize(convolve(x, kernel, 1, 0, 1), scale, bias, SHIFT, EPSILON, axis_name)


def of_the_operand(x, kernel, scale, bias, axis_name=None):
    """Normalises the same result, computed from what the convolution reads."""
    return normalize_product(x, kernel, scale, bias, SHIFT, EPSILON, axis_name)


def test_a_product_is_normalised_without_it():
    """In float32: the result, the moments, and the gradients to all that they come from."""
    arrays = X[..., :4], KERNEL, SCALE, BIAS
    assert_close(of_the_operand(*arrays), of_the_result(*arrays))
    ours, theirs = (
        jax.jit(lambda *a, f=f: pulled(lambda *b: f(*b)[0], *a))(*arrays)
        for f in (of_the_operand, of_the_result)
    )
    assert_close(ours, theirs, 2e-5)


def test_a_product_on_two_devices_is_normalised_as_one_batch():
    x, whole = X[..., :4], of_the_operand(X[..., :4], KERNEL, SCALE, BIAS)
    parts = x.reshape(2, 3, *x.shape[1:])
    each = jax.vmap(lambda x: of_the_operand(x, KERNEL, SCALE, BIAS, "devices"), axis_name="devices")(parts)
    assert_close(each[0].reshape(whole[0].shape), whole[0])
    for member in range(2):
        assert_close([statistic[member] for statistic in each[1:]], whole[1:])

    def gradients(g, x, axis_name):
        _, pull = jax.vjp(lambda *a: of_the_operand(*a, axis_name)[0], x, KERNEL, SCALE, BIAS)
        return pull(g)

    g = jnp.cos(jnp.arange(whole[0].size, dtype=jnp.float32)).reshape(2, 3, *whole[0].shape[1:])
    dx, *own = jax.vmap(lambda g, x: gradients(g, x, "devices"), axis_name="devices")(g, parts)
    ours = dx.reshape(x.shape), *(of_each.sum(0) for of_each in own)
    assert_close(ours, gradients(g.reshape(whole[0].shape), x, None))


def test_devices_exchange_both_moments_at_once():
    """The backward pass exchanges two sums of the same shape, which compilers unite."""
    program = jax.make_jaxpr(
        lambda *arrays: of_the_operand(*arrays, "devices"), axis_env=[("devices", 2)]
    )(X[..., :4], KERNEL, SCALE, BIAS)  # fmt: skip
    assert str(program).count("psum") == 1


def exactly(x, kernel, scale, bias):
    """(result, mean, variance) as the formulas are written."""
    y = jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])
    return plain(y, scale, bias), y.mean((0, 1, 2)), y.var((0, 1, 2))


def found(f, *arrays):
    """Returns the results of f, then the gradient of an uneven sum of the first result to each array."""

    @jax.jit
    def of(*arrays):
        (y, *moments), pull = jax.vjp(f, *arrays)
        g = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(jnp.bfloat16)
        return y, *moments, *pull((g.astype(y.dtype), *map(jnp.zeros_like, moments)))

    return [np.asarray(array, np.float64) for array in of(*arrays)]


@pytest.mark.parametrize("mean", (0.0, 3.0, 30.0))
def test_without_the_product_bfloat16_is_nearer_to_the_exact_numbers(mean):
    """Of channels behind a ReLU, whose means are 0.7, 6 and 50 deviations."""
    x, kernel = (array.astype(jnp.bfloat16) for array in (jax.nn.relu(images(16, 9, 9, 4)) + mean, KERNEL))
    with jax.enable_x64(True):
        exact = found(exactly, *(jnp.asarray(array, jnp.float64) for array in (x, kernel, SCALE, BIAS)))

    def errors(f):
        each = zip(found(f, x, kernel, SCALE, BIAS), exact, strict=True)
        return np.array([np.linalg.norm(ours - best) / np.linalg.norm(best) for ours, best in each])

    ours, theirs = (
        dict(zip(("y", "mean", "variance", "dx", "dkernel", "dscale", "dbias"), errors(f), strict=True))
        for f in (of_the_operand, of_the_result)
    )
    bounds = {"mean": 0.02, "variance": 0.02, "dscale": 0.02, "dkernel": 0.5}
    # Where both round what they write, and the same sum, to a hair.
    bounds |= {"y": 1.5, "dx": 1.5}
    assert not {
        name: (ours[name], theirs[name]) for name, most in bounds.items() if ours[name] > most * theirs[name]
    }


def normalised(monkeypatch, train=True, **fields):
    """Lists (inputs, outputs) of each product that a net normalises without writing it."""
    seen = []

    def noted(x, kernel, *rest):
        seen.append(kernel.shape[2:])
        return normalize_product(x, kernel, *rest)

    model, variables = start(net(**{"branch": "bottleneck", "dtype": "bfloat16"} | fields))
    monkeypatch.setattr(norms, "normalize_product", noted)
    jax.eval_shape(lambda: model.apply(variables, images(), train=train, mutable=["batch_stats"], rngs=KEY))
    return seen


KEY = {"dropout": jax.random.key(0)}


def test_a_net_normalises_the_last_product_of_each_bottleneck_without_it(monkeypatch):
    """And a projection of stride 1; that of the second stage has stride 2."""
    assert sorted(normalised(monkeypatch, transition="projection")) == [(4, 16), (4, 16), (8, 32)]


@pytest.mark.parametrize(
    "fields",
    (
        {"dtype": "float32"},
        {"branch": "basic"},
        {"ghost_batch": 2},
        {"norm": "group"},
        {"bn_fixed": "."},
        {"train": False},
        {"activation_order": "preactivation"},
    ),
    ids=str,
)
def test_other_products_are_written(monkeypatch, fields):
    assert not normalised(monkeypatch, **fields)


@pytest.mark.thorough
def test_a_net_in_bfloat16_has_the_gradients_of_one_in_float32(monkeypatch):
    """As near to them as those of the net that writes its products."""

    def gradients(dtype):
        model, variables = start(net(branch="bottleneck", dtype=dtype, blocks=(2, 2)))
        params, state = split(variables)
        x = images(16, 8, 8, 3).astype(dtype)
        of = jax.grad(loss, has_aux=True)
        (found, _) = jax.jit(lambda params: of(params, state, x, KEY["dropout"], model))(params)
        return jax.flatten_util.ravel_pytree(found)[0]

    exact, ours = gradients("float32"), gradients("bfloat16")
    monkeypatch.setattr(norms.Product, "serves", False)
    written = gradients("bfloat16")
    errors = [float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)) for found in (ours, written)]
    assert errors[0] < 1.2 * errors[1] < 0.1, errors


@pytest.mark.thorough
def test_the_program_does_not_compute_what_is_not_read():
    model, variables = start(net(branch="bottleneck", dtype="bfloat16"))
    params, state = split(variables)
    gradient = jax.grad(loss, has_aux=True)
    program = jax.jit(lambda params: gradient(params, state, images(), KEY["dropout"], model)).lower(params)
    computed = re.findall(r"(conv\d)/(?:conv_general_dilated|dot_general)", program.compile().as_text())
    assert set(computed) == {"conv1", "conv2"}
