"""Joining convolutions to the operations around them leaves the results of every kind of net as they are."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kernels_convolution import assert_close, operands

from resnet.kernels.backend import by_xla_alone
from resnet.kernels.convolution import convolve
from resnet.kernels.fused import of_images
from resnet.kernels.joining import joined
from resnet.kernels.moments import moments, projections
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from tests.few import few

JOINED, BARE = "convolution_joined", "convolution_forward"
# Of each net: fields, and how many of its convolutions, and of its ReLUs, stay apart.
NETS = {
    "postactivation": ({}, 0, 0),
    "preactivation": ({"activation_order": "preactivation"}, 0, 1),  # the ReLU before the head
    "bottleneck": ({"branch": "bottleneck", "depth": 29}, 0, 0),
    "plain": ({"shortcut": "none"}, 0, 0),
    "projection": ({"shortcut": "projection"}, 0, 0),
    "narrow": ({"width": 0.5}, 0, 0),
    "scanned": ({"scan_blocks": True, "depth": 32}, 0, 0),
    "recomputed": ({"remat": True}, 0, 0),
    "gates": ({"shortcut": "exclusive_gating"}, 0, 9),
    "group norm": ({"norm": "group", "norm_groups": 8}, 9, 1),
    "grouped": ({"branch": "bottleneck", "depth": 29, "groups": 4}, 0, 0),
    "bfloat16": ({"dtype": "bfloat16"}, 19, 19),
    "leaky": ({"activation": "leaky_relu"}, 0, 0),
}


def drawn(variables):
    """Adds a random number from 0 to 0.2 to each variable, so that none has its initial value."""
    keys = iter(jax.random.split(jax.random.key(1), 1000))
    return jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.uniform(next(keys), leaf.shape), variables)


@pytest.mark.thorough
@pytest.mark.parametrize("name", few(4, tuple(NETS)))
def test_a_net_predicts_the_same(name):
    fields, bare, relus = NETS[name]
    model = make_model(ModelConfig(**{"depth": 20} | fields), num_outputs=10)
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    variables = drawn(jax.jit(model.init)(jax.random.key(0), images))

    def logits(images):
        return model.apply(variables, images)[0]

    assert_close(jax.jit(joined(logits))(images), jax.jit(logits)(images), 1e-5)
    text = str(jax.make_jaxpr(joined(logits))(images))
    assert text.count(f"{BARE}[") == bare
    assert len(re.findall(r"= max\b|jit\[name=relu", text)) == relus
    assert JOINED in text or bare


def affine(x, kernel, scale, offset, shortcut):
    y = convolve(x, kernel, 1, kernel.shape[0] // 2, 1) * scale[None, None, None] + offset[None, None, None]
    return jax.nn.relu(y + shortcut)


@pytest.fixture
def arrays():
    x, kernel = operands(inputs=24, outputs=32)
    scale, offset = jax.random.normal(jax.random.key(1), (2, 32))
    return x, kernel, scale, offset, jax.random.normal(jax.random.key(2), (*x.shape[:3], 32))


def parts(text):
    return text.count(f"{JOINED}["), text.count(f"{BARE}["), text.count("max ")


def test_derivatives_and_vmap(arrays):
    def loss(function):
        return lambda *arrays: jnp.sin(function(*arrays)).sum()

    gradients = jax.jit(jax.grad(loss(affine), range(5)))(*arrays)
    assert_close(jax.jit(jax.grad(loss(joined(affine)), range(5)))(*arrays), gradients, 1e-5)
    changes = jax.jvp(affine, arrays, arrays)
    assert_close(jax.jvp(jax.jit(joined(affine)), arrays, arrays), changes, 1e-5)
    axes = (0, None, 0, 0, 0)
    several = [
        array if axis is None else jnp.stack([array, 2 * array])
        for array, axis in zip(arrays, axes, strict=True)
    ]
    assert_close(jax.jit(jax.vmap(joined(affine), axes))(*several), jax.vmap(affine, axes)(*several), 1e-5)


@jax.custom_jvp
def ten_times_as_steep(x):
    return x * 1.0


ten_times_as_steep.defjvps(lambda change, y, x: 10 * change)
RULES = {
    "relu": jax.nn.relu,
    "relu of a norm": lambda x: jax.nn.relu(x * jnp.ones((1, 1, 1, 32)) + jnp.zeros((1, 1, 1, 32))),
    "moments": lambda x: moments(x, jnp.ones(32)),
    "a rule of the user's": ten_times_as_steep,
}


@pytest.mark.parametrize("name", RULES)
def test_derivatives_are_those_that_the_function_has(name, arrays):
    function, x = RULES[name], arrays[-1].at[0].set(0.0)

    def gradient(function):
        return jax.grad(lambda x: sum(jnp.sin(y).sum() for y in jax.tree.leaves(function(x))))

    assert_close(*(jax.jit(gradient(f))(x) for f in (joined(function), function)), 1e-5)


WIDTHS = {
    "images of one": lambda x, y: (x[:1], y),
    "rows of one": lambda x, y: (y, x[:, :1]),
    "integers": lambda x, y: (jnp.full(x.shape, 2**24 + 1, "int32"), y),
    "truth": lambda x, y: (x > 1, y),
    "bfloat16": lambda x, y: (x.astype("bfloat16"), y),
    "no images": lambda x, y: (x[:0], y[:0]),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_other_shapes_and_types_stay_as_they_are(name, arrays):
    """What is added, masked or summed has the shape and the type of another, or no images."""
    scale, y = arrays[2], arrays[4]
    x, y = WIDTHS[name](y * 2, y)

    def function(x, y, scale):
        each = scale[None, None, None]
        masked = jnp.where(y > 0, x, jnp.zeros_like(x))
        last = projections(jnp.where(y * each + each > 0, y, jnp.zeros_like(y)), y, scale)
        return x * each + y * each, masked, masked * each.astype(x.dtype) + x, last

    found, expected = (jax.jit(f)(x, y, scale) for f in (joined(function), function))
    assert jax.tree.map(jax.typeof, found) == jax.tree.map(jax.typeof, expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(theirs.dtype, jnp.floating) and theirs.size:
            assert_close(ours, theirs, 1e-2 if theirs.dtype == jnp.bfloat16 else 1e-5)
        else:
            np.testing.assert_array_equal(ours, theirs)


def test_what_is_read_twice_is_computed_once_and_as_it_is(arrays):
    def twice(x, kernel, scale, *_):
        y = convolve(x, kernel, 1, 1, 1)
        return y * scale[None, None, None] + y

    assert parts(str(jax.make_jaxpr(joined(twice))(*arrays))) == (0, 1, 0)
    assert_close(joined(twice)(*arrays), twice(*arrays))


def test_nothing_is_taken_that_is_no_ending(arrays):
    """Operations that no convolution can end in, such as a minimum or a factor of each pixel, stay apart."""
    for last, expected in (
        (lambda y, scale, shortcut: (y + shortcut) * scale, (1, 0, 0)),
        (lambda y, scale, shortcut: y * shortcut, (0, 1, 0)),
        (lambda y, scale, shortcut: jnp.maximum(y, 0.5), (0, 1, 1)),
        (lambda y, scale, shortcut: jnp.maximum(y, shortcut), (0, 1, 1)),
        (lambda y, scale, shortcut: jnp.minimum(y, 0.0), (0, 1, 0)),
        (lambda y, scale, shortcut: jnp.maximum(y, 0.0) + shortcut, (1, 0, 0)),
        (lambda y, scale, shortcut: (y + scale) * scale, (1, 0, 0)),
        (lambda y, scale, shortcut: y + shortcut[:1], (0, 1, 0)),
        (lambda y, scale, shortcut: jnp.maximum(y, np.zeros(32, np.float32)[None, None, None]), (0, 1, 1)),
    ):

        def function(x, kernel, scale, _, shortcut, last=last):
            return last(convolve(x, kernel, 1, 1, 1), scale[None, None, None], shortcut)

        assert parts(str(jax.make_jaxpr(joined(function))(*arrays))) == expected
        assert_close(jax.jit(joined(function))(*arrays), function(*arrays), 1e-5)


@pytest.mark.parametrize("size", (1, 3))
def test_nan_and_infinity_stay(size, arrays):
    x, _, scale, offset, shortcut = arrays
    kernel = operands(size, inputs=24, outputs=32)[1]
    for value in (jnp.nan, jnp.inf):
        broken = x.at[1, 2, 3, 4].set(value)
        found = np.asarray(jax.jit(joined(affine))(broken, kernel, scale, offset, shortcut))
        plain = np.asarray(jax.jit(affine)(broken, kernel, scale, offset, shortcut))
        np.testing.assert_array_equal(np.isnan(found), np.isnan(plain))
        np.testing.assert_array_equal(np.isinf(found), np.isinf(plain))
        assert not np.isfinite(found).all()


def test_no_pixels():
    def function(x):
        return jax.nn.relu(convolve(x, jnp.ones((3, 3, 4, 16)), 1, 0, 1))

    for shape in ((0, 5, 5, 4), (2, 2, 5, 4)):
        x = jnp.ones(shape)
        np.testing.assert_array_equal(jax.jit(joined(function))(x), function(x))


def test_an_export_has_none_of_it(arrays):
    with by_xla_alone():
        text = str(jax.make_jaxpr(joined(lambda *arrays: affine(*arrays)))(*arrays))
        # What joining makes of a norm and a shortcut, without a convolution of ours.
        added = str(
            jax.make_jaxpr(joined(lambda x, scale, y: x * scale[None, None, None] + y))(
                arrays[4], arrays[2], arrays[4]
            )
        )
    assert "convolution_" not in text.replace("conv_general_dilated", "") and "combination" not in added


# Fields; how many kernels get their gradient from images that are read through a norm; and how many masks of
# gradients are operations of their own, or one with a sum.
TRAINED = {
    "postactivation": ({}, 10, 9),
    "preactivation": ({"activation_order": "preactivation"}, 18, 0),
    "bottleneck": ({"branch": "bottleneck", "depth": 29}, 19, 9),
    "ghost groups": ({"ghost_batch": 4}, 10, 9),
    "scanned": ({"scan_blocks": True, "depth": 32}, 4, 9),
    "recomputed": ({"remat": True}, 0, 12),
    "fixed norms": ({"bn_fixed": ".*"}, 10, 11),
    "leaky": ({"activation": "leaky_relu"}, 0, 57),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", few(3, tuple(TRAINED)))
def test_a_net_learns_the_same(name):
    fields, read, masked = TRAINED[name]
    model = make_model(ModelConfig(**{"depth": 20} | fields), num_outputs=10)
    images = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
    variables = drawn(jax.jit(model.init)(jax.random.key(0), images))

    def loss(params, images):
        variables_now = variables | {"params": params}
        (logits, _), seen = model.apply(variables_now, images, train=True, mutable=["batch_stats"])
        return jnp.sin(logits / jax.lax.stop_gradient(jnp.abs(logits).max())).mean(), seen

    gradient = jax.value_and_grad(loss, has_aux=True)
    assert_close(*(jax.jit(f)(variables["params"], images) for f in (joined(gradient), gradient)), 1e-4)
    text = str(jax.make_jaxpr(joined(gradient))(variables["params"], images))
    assert text.count("convolution_joined_kernel_gradient[") == read
    assert len(re.findall(r"= (?:select_n|masked_sum)\b", text)) == masked


@pytest.mark.parametrize("shape", ((32,), (3, 32)))
@pytest.mark.parametrize(("size", "groups"), ((1, 1), (3, 1), (3, 4)))
def test_images_that_are_read_through_a_norm(size, groups, shape):
    """Reading images through a norm, of all or of each one, changes no value, derivative or NaN."""
    x, kernel = operands(size, groups, inputs=32, outputs=32, extent=(9, 10))
    kernel = kernel / 16  # for sines of about 1
    scale, offset = jax.random.normal(jax.random.key(1), (2, *shape))

    def function(x, kernel, scale, offset):
        y = jax.nn.relu(x * of_images(scale, len(x)) + of_images(offset, len(x)))
        return convolve(y, kernel, 1, size // 2, groups)

    def gradients(function):
        return jax.grad(lambda *arrays: jnp.sin(function(*arrays)).sum(), range(4))

    arrays = x, kernel, scale, offset
    for f in (function, gradients(function)):
        assert_close(jax.jit(joined(f))(*arrays), jax.jit(f)(*arrays), 1e-5)
        several = [jnp.stack([array, array / 2]) for array in arrays]
        assert_close(jax.jit(jax.vmap(joined(f)))(*several), jax.vmap(f)(*several), 1e-5)
    for each in (arrays, (x, kernel, 0 * scale, 0 * offset)):  # of the second, every ReLU is of 0
        assert_close(jax.jit(gradients(joined(function)))(*each), gradients(function)(*each), 1e-5)
    broken = x.at[1, 2, 3, 4].set(jnp.nan)
    found, plain = (np.isnan(jax.jit(f)(broken, *arrays[1:])) for f in (joined(function), function))
    np.testing.assert_array_equal(found, plain)
    assert parts(str(jax.make_jaxpr(joined(function))(*arrays))) == (1, 0, 0)
