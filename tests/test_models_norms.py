"""Batch norm against the plain formula and against itself on other groupings; the norms per image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.errors import InputError
from resnet.models.grammar import ModelConfig
from resnet.models.norms import BatchNorm, GroupNorm, batch_normalize

CONFIG = ModelConfig()
EPSILON = CONFIG.norm_epsilon


def arrays(batch=8, channels=4, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    x = 3.0 + 2.0 * jax.random.normal(keys[0], (batch, 5, 6, channels))
    cotangent = jax.random.normal(keys[1], x.shape)
    return (
        x,
        1.0 + 0.1 * jax.random.normal(keys[2], (channels,)),
        jax.random.normal(keys[3], (channels,)),
        cotangent,
    )


def formula(x, scale, bias):
    """The definition, for autodiff."""
    mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + EPSILON) * scale[None, None, None] + bias[None, None, None]


def run(config, x, train=True, axis_name=None):
    """(output, statistics) of a batch norm with arbitrary scale and bias."""
    _, scale, bias, _ = arrays(channels=x.shape[-1])
    statistics = {"mean": jnp.full_like(bias, 0.5), "var": jnp.full_like(bias, 2.0)}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": statistics}
    y, updated = BatchNorm(config, axis_name).apply(variables, x, train, mutable=["batch_stats"])
    return y, updated["batch_stats"]


def test_closed_form_gradient_is_that_of_the_formula():
    x, scale, bias, cotangent = arrays()
    ours, pull = jax.vjp(lambda *a: batch_normalize(*a, EPSILON, None)[0], x, scale, bias)
    theirs, pull_formula = jax.vjp(formula, x, scale, bias)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for a, b in zip(pull(cotangent), pull_formula(cotangent), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


def test_a_mean_far_from_zero_keeps_its_precision():
    """E[x^2] - E[x]^2 in float32 would lose all digits of the variance here."""
    x, scale, bias, _ = arrays()
    _, _, variance = batch_normalize(x + 5000.0, scale, bias, EPSILON, None)
    np.testing.assert_allclose(variance, np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-3)


def test_running_averages_biased_and_unbiased():
    x = arrays()[0]
    n, keep = x.size // x.shape[-1], CONFIG.bn_momentum
    for unbiased, correction in ((False, 1.0), (True, n / (n - 1))):
        _, statistics = run(dataclasses.replace(CONFIG, bn_unbiased=unbiased), x)
        np.testing.assert_allclose(statistics["mean"], keep * 0.5 + (1 - keep) * x.mean((0, 1, 2)), rtol=1e-5)
        expected = keep * 2.0 + (1 - keep) * x.var((0, 1, 2)) * correction
        np.testing.assert_allclose(statistics["var"], expected, rtol=1e-5)


def test_evaluation_uses_the_running_averages_and_leaves_them_alone():
    x, scale, bias, _ = arrays()
    y, statistics = run(CONFIG, x, train=False)
    np.testing.assert_array_equal(statistics["mean"], np.full(4, 0.5, np.float32))
    np.testing.assert_array_equal(statistics["var"], np.full(4, 2.0, np.float32))
    expected = (x - 0.5) / np.sqrt(2.0 + EPSILON) * scale[None, None, None] + bias[None, None, None]
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_ghost_groups_are_batches_of_their_own():
    x = arrays()[0]
    y, statistics = run(dataclasses.replace(CONFIG, ghost_batch=4), x)
    (first, one), (second, two) = run(CONFIG, x[:4]), run(CONFIG, x[4:])
    np.testing.assert_allclose(y, jnp.concatenate([first, second]), atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(statistics[name], (one[name] + two[name]) / 2, rtol=1e-5)


@pytest.mark.parametrize("ghost_batch", (0, 2))
def test_shares_of_a_batch_over_an_axis_equal_the_whole(ghost_batch):
    """As on two devices: over the axis, statistics are those of all images, or of each ghost group."""
    x = arrays()[0]
    config = dataclasses.replace(CONFIG, ghost_batch=ghost_batch)
    whole, statistics = run(config, x)
    shares = x.reshape(2, 4, *x.shape[1:])
    y, each = jax.vmap(lambda share: run(config, share, axis_name="data"), axis_name="data")(shares)
    np.testing.assert_allclose(y.reshape(x.shape), whole, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(each[name][0], statistics[name], rtol=1e-5)
        np.testing.assert_array_equal(each[name][0], each[name][1])


def test_gradients_over_an_axis_are_those_of_the_whole_batch():
    x, scale, bias, cotangent = arrays()
    _, pull = jax.vjp(lambda x: formula(x, scale, bias), x)

    def share_gradient(share, cotangent):
        _, pull = jax.vjp(lambda share: batch_normalize(share, scale, bias, EPSILON, "data")[0], share)
        return pull(cotangent)[0]

    def shares(array):
        return array.reshape(2, 4, *array.shape[1:])

    ours = jax.vmap(share_gradient, axis_name="data")(shares(x), shares(cotangent))
    np.testing.assert_allclose(ours.reshape(x.shape), pull(cotangent)[0], atol=1e-4)


def test_a_ghost_batch_must_divide_the_batch():
    with pytest.raises(InputError, match="`model.ghost_batch` must divide the 8 images of a device; got 3"):
        run(dataclasses.replace(CONFIG, ghost_batch=3), arrays()[0])


def test_bfloat16_keeps_float32_statistics():
    y, statistics = run(CONFIG, arrays()[0].astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert statistics["mean"].dtype == statistics["var"].dtype == jnp.float32


@pytest.mark.parametrize("groups", (1, 2, 4))
def test_group_norm_is_its_definition(groups):
    """1 group: layer norm; as many as channels: instance norm."""
    x, scale, bias, _ = arrays()
    variables = {"params": {"scale": scale, "bias": bias}}
    ours = GroupNorm(groups, EPSILON).apply(variables, x, True)
    b, h, w, c = x.shape
    parts = np.asarray(x, np.float64).reshape(b, h, w, groups, c // groups)
    parts = (parts - parts.mean((1, 2, 4), keepdims=True)) / np.sqrt(
        parts.var((1, 2, 4), keepdims=True) + EPSILON
    )
    np.testing.assert_allclose(ours, parts.reshape(x.shape) * np.asarray(scale) + np.asarray(bias), atol=1e-4)
