"""Norms against the formulas they abbreviate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet.errors import InputError
from resnet.kernels.moments import _one_pass
from resnet.models import norms
from resnet.models.config import ModelConfig
from resnet.models.norms import (
    CHANNEL_GROUPS,
    BatchNorm,
    GroupNorm,
    batch_normalize,
    ghost_groups,
    norm_layer,
)
from tests.models_cases import images, loss, net, split, start

EPSILON = 1e-5
X = 3 * images(6, 5, 4, 8) + 2
SCALE, BIAS, SHIFT = images(8, seed=1), images(8, seed=2), images(8, seed=5)


def plain(x, scale, bias, axes=(0, 1, 2), epsilon=EPSILON):
    """A norm for autodiff, of batches as written in the paper."""
    mean = x.mean(axes, keepdims=True)
    variance = ((x - mean) ** 2).mean(axes, keepdims=True)
    normal = (x - mean) / jnp.sqrt(variance + epsilon)
    return normal * scale[None, None, None] + bias[None, None, None]


def pulled(f, *arrays):
    """(f(*arrays), gradients of an uneven sum of it)."""
    y, pull = jax.vjp(f, *arrays)
    return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


def assert_close(ours, theirs, relative=1e-5):
    """Within `relative` of the largest value."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * float(np.abs(b).max() + 1))


def trained(x, axis_name=None, **fields):
    """(normalised x, running statistics) of a batch norm after one step from mean 1 and variance 2."""
    state = {"mean": jnp.full(8, 1.0), "var": jnp.full(8, 2.0)}
    norm = BatchNorm(net(**fields), axis_name)
    variables = {"params": {"scale": SCALE, "bias": BIAS}, "batch_stats": state}
    y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    return y, updated["batch_stats"]


def test_the_closed_form_is_the_gradient():
    ours = jax.jit(lambda *a: pulled(lambda *b: batch_normalize(*b, SHIFT, EPSILON, None)[0], *a))(
        X, SCALE, BIAS
    )
    assert_close(ours, jax.jit(lambda *a: pulled(plain, *a))(X, SCALE, BIAS))


def test_a_large_mean_cancels_nothing():
    """The variance is a mean of squared differences: an offset of 1000 deviations costs no digits of it."""
    x = images(6, 5, 4, 8)
    y, _, variance = batch_normalize(x + 1000, SCALE, BIAS, SHIFT, EPSILON, None)
    np.testing.assert_allclose(variance, np.var(np.asarray(x + 1000, np.float64), (0, 1, 2)), rtol=1e-4)
    assert_close(y, plain(x, SCALE, BIAS), 1e-3)


def test_devices_lose_nothing_about_a_near_shift():
    """Over devices, with a mean 1000 deviations from zero: as alone about the mean of earlier batches."""
    x = images(6, 5, 4, 8) + 1000
    halves, near = x.reshape(2, 3, *x.shape[1:]), x.mean((0, 1, 2)) + jnp.linspace(-1, 1, 8)

    def variance(shift):
        def of_device(x):
            return batch_normalize(x, SCALE, BIAS, shift, EPSILON, "data")[2]

        return jax.vmap(of_device, axis_name="data")(halves)[0]

    exact = np.var(np.asarray(x, np.float64), (0, 1, 2))
    np.testing.assert_allclose(variance(near), exact, rtol=1e-4)
    assert np.abs(variance(jnp.zeros(8)) - exact).max() > 1e-3  # why the shift is needed


def test_one_pass_trains_the_same_net(monkeypatch):
    """What accelerators compute, in a whole net, on the CPU: outputs, gradients and statistics."""
    (model, variables), x = start(net(ghost_batch=2)), images() + 3

    def step():
        params, state = split(variables)
        return jax.jit(jax.grad(loss, has_aux=True), static_argnums=4)(
            params, state, x, jax.random.key(1), model
        )

    two_passes = step()
    monkeypatch.setattr(norms, "moments", _one_pass)
    one_pass = step()
    assert_close(one_pass, two_passes)
    pairs = zip(*map(jax.tree.leaves, (one_pass, two_passes)), strict=True)
    assert any((a != b).any() for a, b in pairs)  # rounding, by which they differ


@pytest.mark.thorough
def test_sums_over_many_pixels_round_little():
    x = images(1, 128, 128, 8) + 1
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    y = GroupNorm(2, EPSILON).apply(params, x)
    parts = np.asarray(x, np.float64).reshape(-1, 2, 4)
    mean, variance = (f(parts, axis=(0, 2), keepdims=True) for f in (np.mean, np.var))
    exact = ((parts - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape)
    # One sum over all of them is off by 2e-6.
    assert np.sqrt(np.mean((y - exact) ** 2)) < 5e-7


@pytest.mark.parametrize("unbiased", (False, True))
def test_running_statistics(unbiased):
    _, state = trained(X, bn_momentum=0.75, bn_unbiased=unbiased)
    pixels = np.asarray(X, np.float64).reshape(-1, 8)
    np.testing.assert_allclose(state["mean"], 0.75 * 1 + 0.25 * pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state["var"], 0.75 * 2 + 0.25 * pixels.var(0, ddof=unbiased), rtol=1e-5)


@pytest.mark.parametrize("unbiased", (False, True))
def test_ghost_groups_are_batches_of_their_own(unbiased):
    y, state = trained(X, ghost_batch=2, bn_unbiased=unbiased)
    each = [trained(part, bn_unbiased=unbiased) for part in jnp.split(X, 3)]
    assert_close(y, jnp.concatenate([y for y, _ in each]), 1e-6)
    assert_close(state, jax.tree.map(lambda *leaves: sum(leaves) / 3, *(state for _, state in each)), 1e-6)


def test_a_ghost_group_must_divide_the_batch():
    assert ghost_groups(6, 0) == 1
    with pytest.raises(InputError, match="`model.ghost_batch` must divide the 6 images of a device; got 4"):
        trained(X, ghost_batch=4)


@pytest.mark.thorough
@pytest.mark.parametrize("unbiased", (False, True))
def test_devices_together_are_one_batch(unbiased):
    """Outputs, statistics and gradients; a device's own part of the gradients to scale and bias."""
    parts = X.reshape(2, 3, *X.shape[1:])
    y, state = jax.vmap(lambda x: trained(x, "devices", bn_unbiased=unbiased), axis_name="devices")(parts)
    whole, statistics = trained(X, bn_unbiased=unbiased)
    assert_close(y.reshape(X.shape), whole, 1e-6)
    for member in range(2):
        assert_close(jax.tree.map(lambda leaf, i=member: leaf[i], state), statistics, 1e-6)

    def gradients(cotangent, x, axis_name):
        _, pull = jax.vjp(lambda *a: batch_normalize(*a, SHIFT, EPSILON, axis_name)[0], x, SCALE, BIAS)
        return pull(cotangent)

    g = jnp.cos(jnp.arange(X.size, dtype=jnp.float32)).reshape(parts.shape)
    dx, dscale, dbias = jax.vmap(lambda g, x: gradients(g, x, "devices"), axis_name="devices")(g, parts)
    ours = dx.reshape(X.shape), dscale.sum(0), dbias.sum(0)
    assert_close(ours, gradients(g.reshape(X.shape), X, None), 1e-6)


@pytest.mark.thorough
def test_ghost_groups_of_two_devices_share_running_statistics():
    parts = X.reshape(2, 3, *X.shape[1:])
    together = jax.vmap(lambda x: trained(x, "devices", ghost_batch=3), axis_name="devices")(parts)
    y, state = trained(X, ghost_batch=3)
    assert_close(together[0].reshape(X.shape), y, 1e-6)
    assert_close(jax.tree.map(lambda leaf: leaf[0], together[1]), state, 1e-6)
    assert_close(jax.tree.map(lambda leaf: leaf[1], together[1]), state, 1e-6)


@pytest.mark.parametrize("epsilon", (EPSILON, 0.1))
def test_evaluation_uses_running_statistics_and_leaves_them_alone(epsilon):
    state = {"mean": images(8, seed=3), "var": jnp.abs(images(8, seed=4)) + 0.5}
    variables = {"params": {"scale": SCALE, "bias": BIAS}, "batch_stats": state}
    norm = BatchNorm(net(norm_epsilon=epsilon))
    y, after = norm.apply(variables, X, False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], state)
    mean, deviation = np.asarray(state["mean"]), np.sqrt(np.asarray(state["var"]) + epsilon)
    assert_close(y, (np.asarray(X) - mean) / deviation * np.asarray(SCALE) + np.asarray(BIAS))


def test_bfloat16_keeps_statistics_in_float32():
    x = X.astype(jnp.bfloat16)
    y, state = trained(x, dtype="bfloat16")
    _, wide = trained(x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    assert_close(state, wide, 1e-6)
    dx = jax.grad(
        lambda x: batch_normalize(x, SCALE, BIAS, SHIFT, EPSILON, None)[0].astype(jnp.float32).sum()
    )(x)
    assert dx.dtype == jnp.bfloat16


@pytest.mark.parametrize("kind", CHANNEL_GROUPS)
def test_norms_of_single_images(kind):
    groups = CHANNEL_GROUPS[kind](4, 8)
    params = {"params": {"scale": SCALE, "bias": BIAS}}
    y = GroupNorm(groups, EPSILON).apply(params, X)
    parts = np.asarray(X, np.float64).reshape(6, 5, 4, groups, -1)
    axes = {"group": (1, 2, 4), "layer": (1, 2, 3, 4), "instance": (1, 2)}[kind]
    mean, variance = parts.mean(axes, keepdims=True), parts.var(axes, keepdims=True)
    normal = ((parts - mean) / np.sqrt(variance + EPSILON)).reshape(X.shape)
    assert_close(y, normal * np.asarray(SCALE) + np.asarray(BIAS))


class Normed(nn.Module):
    """The norm of a config alone."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x):
        return norm_layer(self.config, x, True, name="norm", axis_name=None)


@pytest.mark.parametrize(
    ("kind", "axes"), [("batch", (0, 1, 2)), ("layer", (1, 2, 3)), ("instance", (1, 2)), ("group", (1, 2, 3))]
)
def test_each_norm_adds_the_epsilon_of_the_config(kind, axes):
    """Ten times the variance of the features. Group norm has all channels in one group."""
    x, module = 0.1 * X / X.std(), Normed(net(norm=kind, norm_epsilon=0.1, norm_groups=1))
    variables = {"params": {"norm": {"scale": SCALE, "bias": BIAS}}}
    if kind == "batch":
        variables["batch_stats"] = {"norm": {"mean": SHIFT, "var": jnp.ones(8)}}
    y, _ = module.apply(variables, x, mutable=["batch_stats"])
    assert_close(y, plain(x, SCALE, BIAS, axes, 0.1))


@pytest.mark.parametrize(
    ("norm", "train"),
    [(BatchNorm(net(), None, True, -6.0), [True]), (GroupNorm(2, EPSILON, True, -6.0), [])],
)
def test_a_norm_that_starts_at_zero_gives_its_bias(norm, train):
    variables = norm.init(jax.random.key(0), X, *train)
    y = norm.apply(variables, X, *train, mutable=["batch_stats"])[0]
    np.testing.assert_array_equal(y, jnp.full_like(X, -6.0))
